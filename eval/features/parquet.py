"""Features as a Parquet table, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_toolkit.errors import missing_extra
from ssl_toolkit.eval.features.extraction import Features
from ssl_toolkit.files import write_atomic

_ROWS = 1 << 16  # a row group


def require_parquet() -> Any:
    """The module pyarrow.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("a Parquet file", "parquet", "pyarrow") from error
    return pyarrow


def write_parquet(features: Features, path: Path) -> None:
    """Write a row an image: ``index`` int64, ``path`` string, ``label`` int64, ``vector`` float32 x D.

    Of a path that is no Unicode, as file names in other encodings are, the bytes in question become question marks.

    Args:
        features: With paths; rows pass through memory in groups.
        path: The file.
    """
    pa, width = require_parquet(), features.x.shape[1]
    kinds = {"index": pa.int64(), "path": pa.string(), "label": pa.int64(), "vector": pa.list_(pa.float32(), width)}
    schema = pa.schema(list(kinds.items()))

    def write(temporary: Path) -> None:
        with pa.parquet.ParquetWriter(temporary, schema) as writer:
            for start in range(0, len(features), _ROWS):
                rows = slice(start, start + _ROWS)
                flat = pa.array(np.ascontiguousarray(features.x[rows]).reshape(-1))
                names = [name.encode("utf-8", "replace").decode() for name in (features.paths or [])[rows]]
                vector = pa.FixedSizeListArray.from_arrays(flat, width)
                columns = [pa.array(features.index[rows]), pa.array(names), pa.array(features.label[rows]), vector]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    write_atomic(path, write)
