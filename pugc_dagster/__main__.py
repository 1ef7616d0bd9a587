"""`python -m pugc_dagster` is `pugc`."""

from pugc_dagster.cli import main

main()
