"""Has the world moved away from the training data? Drift tests and the report."""
