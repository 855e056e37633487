"""Few labels and a similarity graph to many labels."""
