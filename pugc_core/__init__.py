"""PUGC: preference data from user-generated content (arXiv 2506.04463).

`pugc_core` is the method in plain Python. It never imports dagster, and importing it never imports torch or vllm.
"""

__version__ = "0.1.0"
