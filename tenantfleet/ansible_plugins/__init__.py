"""What stands behind the shims in filter_plugins and inventories/plugins."""
