"""Entry of the tree: ``/usr/bin/python3 -I -B TREE …``."""  # noqa: INP001 -- a tree is no package

import sys

from safety_wrapper.cli import main

sys.exit(main(sys.argv[1:]))
