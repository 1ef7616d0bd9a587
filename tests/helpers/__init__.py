"""What several test modules share; imported as `helpers.<module>`."""
