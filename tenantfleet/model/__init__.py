"""Frozen types of the driver: no input or output, no clock, no environment."""
