"""Two models compared on the same test images, whichever these are."""
