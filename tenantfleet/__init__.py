"""Provision tenants and roll releases out to them."""
