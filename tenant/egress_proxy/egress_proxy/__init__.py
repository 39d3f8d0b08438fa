"""The only way from a tenant's host to a model: admits, redacts, injects the provider's key, relays."""
