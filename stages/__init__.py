"""The pipeline, one module per stage, in the order of dvc.yaml."""
