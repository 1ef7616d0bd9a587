"""The wiring of PUGC into Dagster: assets, IO managers, resources and the `pugc` command. No prompt, formula or parser."""
