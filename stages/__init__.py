"""The pipeline, one module a stage, in the order of dvc.yaml."""

import grocery  # noqa: F401  (pins the numeric kernels before numpy loads)
