"""What the pages and pictures for people are made of."""
