"""One thin asset per stage; `base` holds what they share."""
