"""Sweeps without a server: W&B's search engine, DVC's experiments, and a journal between them."""
