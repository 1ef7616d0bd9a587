"""The roles adapter on the base model."""
