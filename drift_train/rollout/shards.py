"""Keeps the replies to a shard of requests in one Parquet file, which is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drift_data.workspace import replace_file
from drift_train.rollout.engine import EngineReply, ShardReplies

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("log_probs", pa.list_(pa.float64()), nullable=False),
    ]
)
_MADE_BY_KEY = b"made"  # key in the file's metadata under which the engine is described


def write_shard(path: Path, shard: ShardReplies) -> None:
    """Write a shard's file; a kill at any moment leaves it whole or not there at all."""
    made_by = json.dumps({"engine": shard.engine, "precision": shard.precision, "remarks": shard.remarks})
    table = pa.table(
        {name: [getattr(reply, name) for reply in shard.replies] for name in _SCHEMA.names}, _SCHEMA
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as part:
        pq.write_table(table.replace_schema_metadata({_MADE_BY_KEY: made_by}), part, compression="zstd")


def read_shard(path: Path) -> ShardReplies:
    """Return the shard that `write_shard` wrote."""
    table = pq.read_table(path)
    return ShardReplies(
        [EngineReply(**row) for row in table.to_pylist()], **json.loads(table.schema.metadata[_MADE_BY_KEY])
    )
