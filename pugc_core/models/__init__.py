"""Which model: what a recipe says of it, what is in its folder, and the models that PUGC brings itself."""
