"""The wiring of PUGC into Dagster: assets, IO managers, resources, the command `pugc`. No prompt, formula or parser."""
