"""The embedded dataset: drawn from a recipe."""
