"""Images that cannot be read: the list of them, and how many are too many."""

from __future__ import annotations

import csv
from pathlib import Path

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.data.images import BadImageError
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.progress import progress_bar


class BadImages:
    """The list of images that could not be read, on disk as it grows, and the limit to it.

    Args:
        images: The image set that is being read.
        file: CSV file with a path and a reason a line; lines of an earlier reading are kept, and do not count. None
            keeps the list in memory.
        max_rate: Share of the image set that may be bad, in [0, 1]; above 0, one image may, however few there are.
        total: Images that the share is of, where `images` are a part of them; None: all of `images`.

    Attributes:
        reasons: What has been found: why the image at a path cannot be read.
        limit: How many may be bad.
    """

    def __init__(
        self, images: ImageSet, file: Path | None = None, max_rate: float = 0.01, total: int | None = None
    ) -> None:
        self.images, self.file, self.max_rate = images, file, max_rate
        self.total = len(images) if total is None else total
        self.limit = max(int(max_rate * self.total), int(max_rate > 0 and self.total > 1))
        self.reasons: dict[str, str] = {}
        self._listed: set[str] = set()
        if file is not None and file.exists():
            with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
                self._listed = {row[0] for row in csv.reader(lines) if len(row) == 2}  # the last may be torn

    def __len__(self) -> int:
        return len(self.reasons)

    def record(self, bad: dict[int, str]) -> None:
        """Add images by position, with the reason; each is listed once.

        Raises:
            ToolkitError: If more than `limit` are bad. Before that, all others are checked, so that the list is whole.
        """
        self._add(bad)
        if len(self) <= self.limit:
            return
        others = range(len(self.images) if self.images.indexed else 0)
        with progress_bar(len(others), "looking for more images that cannot be read", "image") as bar:
            for index in others:
                try:
                    self.images.check(index)
                except BadImageError as error:
                    self._add({index: error.reason})
                bar.update()
        path, reason = next(iter(self.reasons.items()))
        listed = f"; all are listed in {self.file} (the rest was checked, mostly without decoding)" if self.file else ""
        raise ToolkitError(
            f"{len(self)} of the {self.total} images of '{self.images.word}' cannot be read, more than "
            f"{self.max_rate:.1%}; the first is {path}: {reason}. Mend or remove them, or raise --max-bad-rate{listed}"
        )

    def _add(self, bad: dict[int, str]) -> None:
        new = {self.images.path(index): reason for index, reason in bad.items()}
        new = {path: reason for path, reason in new.items() if path not in self.reasons}
        self.reasons |= new
        lines = [(path, reason) for path, reason in new.items() if path not in self._listed]
        if self.file is not None and lines:
            fresh = not self.file.exists() or not self.file.stat().st_size
            with self.file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows(([("path", "reason")] if fresh else []) + lines)
