"""Run the egress proxy: ``/usr/bin/python3 -I -B CODE --config FILE``."""

from egress_proxy.service import main

main()
