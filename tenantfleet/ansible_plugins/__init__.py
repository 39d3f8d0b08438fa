"""What stands behind the shims in inventories/plugins and filter_plugins."""
