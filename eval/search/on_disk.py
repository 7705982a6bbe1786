"""Inverted lists that memory cannot hold: FAISS's own on-disk lists, filled block by block."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk
from numpy.typing import NDArray

from ssl_toolkit.eval.search.gpus import filled
from ssl_toolkit.files import temporary_beside

ON_DISK = 1 << 30
"""Bytes of inverted lists from which they stay on the disk."""

BLOCK = 1 << 29
"""Bytes of them that are filled in memory, at most, before they are put beside the others."""


def lists_on_disk(index: Any, count: int) -> bool:
    """Whether the lists of `count` vectors are to stay on the disk; only inverted lists of vectors can."""
    ivf = _lists_of(index)
    return ivf is not None and count * (ivf.code_size + 8) > ON_DISK


def fill_on_disk(index: Any, vectors: NDArray[np.float32], file: Path) -> None:
    """Fill an empty, trained index, whose lists become a file.

    Beside the index, memory holds one block of the lists; the disk holds them twice meanwhile.

    Args:
        index: Of inverted lists.
        vectors: (N, D).
        file: What the lists become. `named_lists` says where they lie when it has moved.
    """
    step = max(BLOCK // (_lists_of(index).code_size + 8), 1)
    with ExitStack() as stack:
        blocks = []
        for start in range(0, len(vectors), step):
            block = filled(faiss.clone_index(index), vectors[start : start + step], start)
            blocks.append(stack.enter_context(temporary_beside(file.with_name("approximate.faiss"))))
            faiss.write_index(block, str(blocks[-1]))
            del block
        with _told_on_stderr():
            merge_ondisk(index, [str(path) for path in blocks], str(file))


def emptied(index: Any) -> Any:
    """An index of on-disk lists with what it has learnt, and with nothing in it."""
    empty = faiss.deserialize_index(faiss.serialize_index(index), faiss.IO_FLAG_SKIP_IVF_DATA)
    ivf = _lists_of(empty)
    lists: Any = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    ivf.replace_invlists(lists, True)
    lists.this.disown()
    empty.ntotal = ivf.ntotal = 0
    return empty


def name_lists(index: Any, file: Path) -> None:
    """Let the index know the name of the file of its lists, which is to lie beside its own."""
    lists: Any = faiss.downcast_InvertedLists(_lists_of(index).invlists)
    lists.filename = file.name


def open_on_disk(path: Path, lists: Path) -> Any:
    """The index in a file, with its lists in another, which is mapped.

    Raises:
        ValueError: The index has no such lists.
    """
    # FAISS would look for the lists where the index says, and tell of it on stdout where that is beside the index.
    index = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_IVF_DATA)
    ivf = _lists_of(index)
    found = None if ivf is None else faiss.downcast_InvertedLists(ivf.invlists)
    if not isinstance(found, faiss.OnDiskInvertedLists) or found.totsize != lists.stat().st_size:
        raise ValueError("it is not of these lists")
    found.filename, found.read_only = str(lists), True
    found.do_mmap()
    return index


def _lists_of(index: Any) -> Any:
    """The part of an index that has inverted lists; None where there is none, or it keeps more than those."""
    inner: Any = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    plain = isinstance(inner, faiss.IndexIVF) and not isinstance(inner, faiss.IndexIVFPQR)
    return inner if plain else None


@contextlib.contextmanager
def _told_on_stderr() -> Iterator[None]:
    """What FAISS prints goes to stderr: stdout is for results."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # FAISS's own buffer
        os.dup2(stdout, 1)
        os.close(stdout)
