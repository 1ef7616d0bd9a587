"""Runs of Dagster: started from the terminal, recorded, looked up."""
