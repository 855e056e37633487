"""Sweeps without a server: a file of W&B's, Optuna's search, and DVC's experiments."""

from grocery.core.pin import pin

pin()  # before numpy is loaded: on another processor the search would draw other values
