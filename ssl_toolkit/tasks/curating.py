"""What to look at in a collection of images, or to leave out of it: copies, and images far from all others."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from typing import TYPE_CHECKING, Any

from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.tasks.settings import AnyChannels, AnyIndex, AnyPath
from ssl_toolkit.tasks.tables import Found, Table, write_csv

if TYPE_CHECKING:
    from ssl_toolkit.eval.search.index import EmbeddingIndex

ROWS, TILES = 20, 9  # of a picture


class Groups(Found, list[list[dict[str, Any]]]):
    """Groups of copies, the largest first; of each image ``path``, ``keep``, ``likeness``, ``label``, ``bytes``.

    Attributes:
        threshold: The least likeness of a copy.
        images: How many images were looked at.
        unread: How many of the index could not be.
    """

    threshold: float
    images: int
    unread: int

    def summary(self) -> str:
        """What was found, in a line, and what could not be read, in another."""
        rest = [image for group in self for image in group if not image["keep"]]
        freed = sum(image["bytes"] for image in rest)
        gone = f"\n{self.unread} images of the index cannot be read any more" if self.unread else ""
        if not self:
            return f"no copies among {self.images} images (likeness {self.threshold:.2f} or more){gone}"
        return (
            f"{len(self)} {'group' if len(self) == 1 else 'groups'}, {len(rest) + len(self)} images of {self.images} "
            f"(likeness {self.threshold:.2f} or more); without the {len(rest)} that need not be kept "
            f"{freed / 1e6:.1f} MB would be freed{gone}"
        )

    def table(self) -> Table:
        """A row an image."""
        rows = [[str(number), _mark(image), image["path"]] for number, group in enumerate(self, 1) for image in group]
        return Table(["group", "likeness", "path"], rows, ["<7", "<10", ""], [self.summary()])

    def text(self, colour: bool = False) -> str:
        """A line an image, a blank line between groups."""
        return "\n\n".join("\n".join(f"{_mark(image)}  {image['path']}" for image in group) for group in self)


def _mark(image: dict[str, Any]) -> str:
    return "keep" if image["keep"] else f"{image['likeness']:.2f}"


class Outliers(Found, list[dict[str, Any]]):
    """Images, the farthest from all others first, each with ``path``, ``score`` and ``label``.

    Attributes:
        metric: Of the scores, ``cosine`` or ``l2``.
        k: To which other the scores are.
    """

    metric: str
    k: int

    @property
    def about(self) -> str:
        """What the scores are."""
        if self.metric == "cosine":
            return f"cosine to the nearest other number {self.k}: the lower, the farther out"
        return f"distance to the nearest other number {self.k}: the higher, the farther out"

    def table(self) -> Table:
        """A row an image."""
        rows = [[f"{item['score']:.3f}", _text(item["label"]), item["path"]] for item in self]
        head = [self.metric if self.metric == "cosine" else "distance", "label", "path"]
        return Table(head, rows, ["<10", "<14", ""])

    def text(self, colour: bool = False) -> str:
        """A line an image, below what the scores are."""
        return f"{self.about}\n{self.table()}"


def _text(label: str | int | None) -> str:
    return "" if label is None else str(label)


def duplicates(
    index: AnyIndex,
    threshold: float | None = None,
    grid: AnyPath | None = None,
    picture_channels: AnyChannels | None = None,
    csv: AnyPath | None = None,
    data_root: str = "data",
    progress: bool = True,
) -> Groups:
    """Find groups of images that are copies of one another: resized, recompressed, flipped, cut or of other brightness.

    Args:
        index: Index folder, whose images are read again.
        threshold: Least likeness of a copy, from 0 to 1; if not given, what chance does not reach in this index, from
            0.75 to 0.9.
        grid: PNG file for a picture of the largest groups, a row each.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.
        csv: CSV file for a row an image, with group, keep, likeness, path, label and bytes.
        data_root: Folder of torchvision's data sets.
        progress: Show a progress bar.

    Returns:
        The groups, in each the image to keep first, then the others with their likeness to it.

    Raises:
        UsageError: If there is no such index, none of its images is there, or the threshold is out of range.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, duplicates, index
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = index(encoder, "shapes:train:40", f"{folder}/index", workers=0, progress=False)
        ...     len(duplicates(made, progress=False))
        0
    """
    from ssl_toolkit.data.shown import parse_picture_channels
    from ssl_toolkit.eval.search.copies import duplicates as find
    from ssl_toolkit.eval.search.copies import file_bytes
    from ssl_toolkit.tasks.common import open_index

    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold is {threshold}: it must be from 0 to 1")
    opened = open_index(index)
    reading, shown = _reading(opened), parse_picture_channels(picture_channels)
    found = find(opened, threshold, root=data_root, progress=progress, **reading)
    groups = Groups(
        [
            {
                "path": opened.paths[place],
                "keep": place == members[0],
                "likeness": round(score, 4),
                "label": opened.label(place),
                "bytes": file_bytes(opened.paths[place]),
            }
            for place, score in zip(members, likeness, strict=True)
        ]
        for members, likeness in zip(found.groups, found.likeness, strict=True)
    )
    groups.threshold, groups.unread = found.threshold, len(found.unread)
    groups.images = len(opened) - groups.unread
    if csv is not None:
        lines = ({"group": number, **image} for number, group in enumerate(groups, 1) for image in group)
        write_csv(["group", "keep", "likeness", "path", "label", "bytes"], lines, csv)
    if grid is not None and groups:
        rows = [[{**image, "score": image["likeness"]} for image in group] for group in groups[:ROWS]]
        left_out = f" ({len(rows)} of {len(groups)} groups)" if len(groups) > len(rows) else ""
        heads = ("to keep", f"its copies, likeness below each{left_out}")
        first, others = [group[0] for group in rows], [group[1 : 1 + TILES] for group in rows]
        _draw(first, others, grid, heads, data_root, picture_channels=shown, **reading)
    return groups


def outliers(
    index: AnyIndex,
    count: int = 20,
    k: int = 10,
    grid: AnyPath | None = None,
    picture_channels: AnyChannels | None = None,
    data_root: str = "data",
) -> Outliers:
    """Find the images that are farthest from all others.

    Args:
        index: Index folder.
        count: How many of them.
        k: An image is as far out as its k-th nearest other is away, so that up to k alike do not hide each other.
        grid: PNG file for a picture of them, the first twenty, each beside its nearest others.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.
        data_root: Folder of torchvision's data sets.

    Returns:
        For each `path`, `label` and `score`, the cosine or distance to that other; the farthest first.

    Raises:
        UsageError: If there is no such index, or a number is below 1.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, index, outliers
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = index(encoder, "shapes:train:40", f"{folder}/index", workers=0, progress=False)
        ...     len(outliers(made, count=3))
        3
    """
    from ssl_toolkit.data.shown import parse_picture_channels
    from ssl_toolkit.eval.search import curate
    from ssl_toolkit.tasks.common import open_index

    for option, value in (("--count", count), ("-k", k)):
        if value < 1:
            raise UsageError(f"{option} is {value}: it must be at least 1")
    shown, opened = parse_picture_channels(picture_channels), open_index(index)
    order, score = curate.outliers(opened, k)
    found = Outliers(
        {"path": opened.paths[place], "score": float(one), "label": opened.label(place)}
        for place, one in zip(order[:count], score, strict=False)
    )
    found.metric, found.k = opened.metric, min(k, len(opened) - 1)
    if grid is not None:
        near = opened.neighbours_of(order[: min(count, ROWS)], TILES)
        measure = "cosine" if opened.metric == "cosine" else "distance"
        heads = ("farthest out first", f"the nearest others it has, {measure} below each")
        _draw(found[:ROWS], near.rows(), grid, heads, data_root, picture_channels=shown, **_reading(opened))
    return found


def _reading(index: "EmbeddingIndex") -> dict[str, Any]:
    """How the images are read: channels and range; as other files where the encoder's, which says so, is gone."""
    from ssl_toolkit.encoders import encoder_config

    try:
        config = encoder_config(index.encoder_file)
    except ToolkitError:
        return {}
    return {"channels": config.channels, "range": config.range}


def _draw(
    first: list[dict[str, Any]],
    others: list[list[dict[str, Any]]],
    out: AnyPath,
    heads: tuple[str, str],
    root: str,
    **look: Any,
) -> None:
    """A picture of images, each beside others; it is not said whose class is right."""
    from ssl_toolkit.eval.pictures.neighbours import neighbour_grid

    paths = [image["path"] for image in first]
    neighbour_grid(paths, others, out, root=root, query_labels=[None] * len(first), heads=heads, **look)
