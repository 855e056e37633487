"""The memory of a monitored inbox: its history and its page."""
