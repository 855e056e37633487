"""What all rooms stand on: errors, files, arrays on disk, and the parameters."""
