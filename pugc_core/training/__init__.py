"""Training a policy on the dataset: `run.run` does it in a process of its own, `trainer.train` in this one.

Only `trainer`, `callbacks` and what the losses build import torch, and only when a training starts.
"""
