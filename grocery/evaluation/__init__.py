"""What is measured on test, and the reference that the monitor compares with."""
