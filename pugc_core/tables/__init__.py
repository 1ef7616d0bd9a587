"""A recipe's tables: where they lie, how they are made, and which are out of date."""
