"""Images that cannot be read: the list of them, and how many are too many."""

from __future__ import annotations

import csv
from pathlib import Path

from ssl_toolkit.data.image_set import ImageSet
from ssl_toolkit.errors import ToolkitError


class BadImages:
    """The list of images that could not be read, on disk as it grows, and the limit to it.

    Args:
        images: The image set that is being read.
        file: CSV file with a path and a reason a line; existing lines are kept. None keeps the list in memory.
        max_rate: Share of the image set that may be bad, in [0, 1].
        total: Images that the share is of, where `images` are a part of them; None: all of `images`.
    """

    def __init__(
        self, images: ImageSet, file: Path | None = None, max_rate: float = 0.01, total: int | None = None
    ) -> None:
        self.images, self.file, self.max_rate = images, file, max_rate
        self.total = len(images) if total is None else total
        self.reasons: dict[str, str] = {}
        if file is not None and file.exists():
            with file.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
                rows = [row for row in csv.reader(lines) if len(row) == 2]  # the last may be torn
                self.reasons = dict(rows[1:])

    def __len__(self) -> int:
        return len(self.reasons)

    def record(self, bad: dict[int, str]) -> None:
        """Add images by position, with the reason; each is listed once.

        Raises:
            ToolkitError: If more than `max_rate` of the image set is bad.
        """
        new = {self.images.path(index): reason for index, reason in bad.items()}
        new = {path: reason for path, reason in new.items() if path not in self.reasons}
        if not new:
            return
        self.reasons |= new
        if self.file is not None:
            fresh = not self.file.exists() or not self.file.stat().st_size
            with self.file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as lines:
                writer = csv.writer(lines)
                writer.writerows(([("path", "reason")] if fresh else []) + list(new.items()))
        if len(self) > self.max_rate * self.total:
            path, reason = next(iter(self.reasons.items()))
            raise ToolkitError(
                f"{len(self)} of the {self.total} images of '{self.images.word}' cannot be read, more than "
                f"{self.max_rate:.1%}; the first is {path}: {reason}. Mend or remove them, or raise --max-bad-rate"
                + (f"; all are listed in {self.file}" if self.file else "")
            )
