"""Run the release over incoming batches: has the world moved away from the training data?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grocery.compute import parallel_map
from grocery.data.images import thumbnail
from grocery.data.shards import BATCH_SCHEMA, read_table
from grocery.errors import DataError
from grocery.files import replacing, write_bytes, write_json
from grocery.model import Model, load_model
from grocery.monitoring.drift import Judgement, judge
from grocery.monitoring.reference import Reference
from grocery.monitoring.report import BatchReport, Sample, choose_samples, render
from grocery.params import MonitorParams
