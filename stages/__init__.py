"""The pipeline, one module a stage, in the order of dvc.yaml."""

from grocery.core.pin import pin

pin()
