"""The safety wrapper: no agent run and no tool call of a tenant without its word."""
