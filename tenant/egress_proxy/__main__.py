"""Run the egress proxy: ``/usr/bin/python3 -I -B CODE --config FILE``."""  # noqa: INP001 -- a tree is no package

from egress_proxy.service import main

main()
