"""Reads back what W&B wrote: the transaction log of a run."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


def logged(folder: Path, kind: str) -> list[Any]:
    """The records of one kind, such as ``history``, of the run in a folder.

    The file has LevelDB's log format, and one protobuf a record.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    data, position, found, part = path.read_bytes(), 7, [], b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, part_kind = struct.unpack_from("<IHB", data, position)
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if part_kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(part)
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
            part = b""
    return found
