"""The objectives, one file each. Importing them imports no torch; TrainingConfig names them all."""
