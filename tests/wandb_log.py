"""Reads back what W&B wrote: the transaction log of a run."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[Any]:
    """The records of the run in a folder: LevelDB's log format, one protobuf a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    data, position, found, part = path.read_bytes(), 7, [], b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0 or position + 7 + length > len(data):  # no more, or not yet
            break
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def of_kind(found: list[Any], kind: str) -> list[Any]:
    """The records of one kind, such as ``history``."""
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]
