"""Where machines come from: one adapter each."""
