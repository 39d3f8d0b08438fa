"""What stands behind the shims in inventories/plugins."""
