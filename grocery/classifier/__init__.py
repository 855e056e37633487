"""The deployable head: what it is fitted on, how it is fitted, and how it is calibrated."""
