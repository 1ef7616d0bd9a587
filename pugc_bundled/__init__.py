"""How the models that PUGC brings were made and measured: training scripts, not needed to run anything."""
