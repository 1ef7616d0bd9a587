"""What the command `pugc` shows."""
