"""What the monitor compares incoming images with."""
