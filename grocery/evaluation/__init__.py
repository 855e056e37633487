"""What is measured on test."""
