"""The dataset card: its numbers, its page, and labels that are probably wrong."""
