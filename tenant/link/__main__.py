"""Run the link, or check a heartbeat: ``/usr/bin/python3 -I -B CODE [--config FILE | verify FILE]``."""  # noqa: INP001 -- a tree is no package

import sys

from link.command import main

sys.exit(main(sys.argv[1:]))
