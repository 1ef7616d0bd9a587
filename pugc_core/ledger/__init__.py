"""The ledger of answers: ask a model once."""
