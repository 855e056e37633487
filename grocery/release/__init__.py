"""The deployable model, its verdict and its card."""
