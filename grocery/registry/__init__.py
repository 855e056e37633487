"""Versions and stages of the released models: git tags are the truth, W&B mirrors them."""
