"""The only door to a repository of the project: its git, and what its DVC keeps."""

from grocery.registry.store.objects import Missing, Store, dvc_errors, first, open_store, some
from grocery.registry.store.pipeline import Pipeline

__all__ = ["Missing", "Pipeline", "Store", "dvc_errors", "first", "open_store", "some"]
