"""Opening an ONNX file so that nothing but what stands in it counts.

A tensor in an ONNX file may name another file and an offset instead of holding numbers (*external
data*). Such a backbone is not what its hash says, and onnxruntime looks for the file in the current
directory even when it gets the model as bytes; so it is told to look where no file can be.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from grocery.core.errors import ModelError

_NOWHERE = f"{os.devnull}/nothing"  # below what is no folder


def open_session(path: Path, data: bytes) -> Any:
    """Open onnxruntime's session of a whole file, on one thread; sentences call it by its path.

    Raises
    ------
    ModelError
        When onnxruntime is not installed, or the file is no model that it can run, or not a whole
        one.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ModelError("the encoder onnx needs the package onnxruntime: `make extras`") from None
    options = onnxruntime.SessionOptions()
    # The pipeline is parallel over shards, and one thread adds in one order.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Errors are raised; onnxruntime would print them too.
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NOWHERE
    )
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        if re.search("external data|in-memory address", str(error), re.IGNORECASE):
            raise ModelError(
                f"{path} keeps numbers in other files; a backbone must be one file, so save it "
                "without external data"
            ) from None
        if "protobuf" in str(error).lower():
            raise ModelError(f"{path} is not an ONNX file, or not a whole one") from None
        raise ModelError(f"{path} cannot be used: {runtime_reason(error)}") from None


def runtime_reason(error: Exception) -> str:
    """What onnxruntime says, on one line of bounded length, without its codes."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return text if len(text) <= 200 else text[:199] + "…"
