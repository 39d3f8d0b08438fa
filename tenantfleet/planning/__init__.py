"""Pure functions from what is known to what will be done."""
