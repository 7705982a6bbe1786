"""Lance tables with a column of images, by the package pylance (the extra ``[lance]``), read at any place."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssl_toolkit.data.arrays import label_array, numbered_labels
from ssl_toolkit.data.columns import Named, image_column, label_column, named_columns
from ssl_toolkit.data.file_set import EncodedSet
from ssl_toolkit.data.hugging_face import stored
from ssl_toolkit.data.image_set import Wanted, unlabelled
from ssl_toolkit.data.images import BadImageError, Source, in_brief
from ssl_toolkit.errors import UsageError, missing_extra, said_by


def open_lance(word: str, wanted: Wanted) -> LanceSet:
    """A table, ``lance:PATH``; see `open_images`.

    Raises:
        UsageError: It is not there, a column holds no images, or the package is not installed.
    """
    named = named_columns(word)
    place = named.word.partition(":")[2]
    if "://" not in place:
        place = os.path.abspath(os.path.expanduser(place))
    return LanceSet(place, named._replace(word=f"lance:{place}"), wanted)


def open_lance_object(given: Any, word: str, wanted: Wanted) -> LanceSet | None:
    """A `lance.LanceDataset` as an image set, of the version that it shows; None of all else."""
    if not type(given).__module__.startswith("lance.") or not hasattr(given, "count_rows"):
        return None
    return LanceSet(given.uri, Named(word), wanted, given.version)


class LanceSet(EncodedSet):
    """A Lance table as an image set.

    Args:
        place: Path or URL of the table.
        named: What it is called, and its columns.
        wanted: Channels, range, and whether labels are read.
        version: Of the table; None: the newest.

    Raises:
        UsageError: It cannot be opened, a column is not there or holds something else, or there are no images.
    """

    forks = False  # the package's threads do not survive it: one in some workers dies

    def __init__(self, place: str, named: Named, wanted: Wanted, version: int | None = None) -> None:
        self._name, self._place, self._version = named.word, place, version
        self._opened: Any = None
        self._expected: dict[int, Any] = {}
        try:
            table = self._table()
            count, schema = table.count_rows(), table.schema
            self._version = table.version  # a table may change while it is read: rows keep their places in this one
        except UsageError:
            raise
        except Exception as error:  # of the package, of a file system
            raise UsageError(f"{named.word}: it cannot be opened as a Lance table: {said_by(error)}") from error
        if not count:
            raise UsageError(f"{named.word}: there are no images in it")
        kinds = {field.name: str(field.type) for field in schema}
        images = [name for name, kind in kinds.items() if kind.endswith("binary") or kind.startswith("struct<bytes")]
        labels = [
            name for name, kind in kinds.items() if kind.removeprefix("large_").startswith(("int", "uint", "str"))
        ]
        self._image = image_column(named.word, kinds, images, named.image)
        label = label_column(named.word, kinds, [name for name in labels if name not in images], named.label)
        numbers, classes = unlabelled(count), None
        if label is not None and wanted.labels != "none":
            numbers, classes = _labels(table, label, named.word)
        super().__init__(numbers, classes, wanted)

    def source(self, index: int) -> Source:
        """The bytes of an image."""
        if not 0 <= index < len(self.labels):
            raise IndexError(index)
        try:
            found = self._expected if index in self._expected else self._taken([index])
            return stored(found[index], self.path(index))
        except Exception as error:  # whatever a damaged table raises
            raise BadImageError(self.path(index), in_brief(error)) from error

    def expect(self, indices: Sequence[int]) -> None:
        """As `ImageSet.expect`: one question for a batch, an answer to which takes as long as to one for an image."""
        try:
            self._expected = self._taken(list(dict.fromkeys(indices)))
        except Exception:  # whatever a damaged table raises: then each image is asked for, and that one says it
            self._expected = {}

    def path(self, index: int) -> str:
        """As `ImageSet.path`."""
        return f"{self._name}#{index}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None, "_expected": {}}

    def _taken(self, rows: list[int]) -> dict[int, Any]:
        """What the column of images holds in some rows."""
        column = self._table().take(rows, columns=[self._image])[self._image]
        return dict(zip(rows, column.to_pylist(), strict=True))

    def _table(self) -> Any:
        if self._opened is None:
            try:
                lance: Any = importlib.import_module("lance")
            except ImportError as error:
                raise missing_extra(f"'{self._name}'", "lance", "the package pylance") from error
            self._opened = lance.dataset(self._place, version=self._version)
        return self._opened


def _labels(table: Any, column: str, word: str) -> tuple[NDArray[np.int64], list[str] | None]:
    found = table.to_table(columns=[column])[column].to_pylist()
    return numbered_labels(word, label_array(found), len(found))
