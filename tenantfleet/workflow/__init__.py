"""The durable engine: remembers which step of an order was done, and resumes after a crash."""
