"""Weights & Biases and DVCLive behind one small interface."""
