"""The tiny model, trained from scratch."""
