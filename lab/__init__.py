"""A whole world on one machine: Debian hosts with systemd, registry, release store, model server."""
