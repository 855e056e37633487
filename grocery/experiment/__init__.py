"""One DVC experiment: its processes, what it says step by step, and what it has measured."""
