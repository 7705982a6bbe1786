"""The nearest neighbours of images in an index."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import contextlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import AnyChannels, AnyIndex, AnyPath
from ssl_toolkit.tasks.tables import Found, Table, write_csv

if TYPE_CHECKING:
    from torch import nn

    AnyQueries: TypeAlias = Any  # see `search`
    AnyEncoder: TypeAlias = AnyPath | nn.Module
else:  # of the command line, words
    AnyQueries, AnyEncoder = list[str], str

ROWS = 50  # of the picture


class Neighbours(Found, list[dict[str, Any]]):
    """A dictionary a query, of its name ``query``, its ``label`` or None, and its ``hits``, best first.

    Each hit has ``rank`` (from 1), ``path``, ``score`` and ``label``.
    """

    def table(self) -> Table:
        """A row a hit."""
        rows = [
            [one["query"], str(hit["rank"]), f"{hit['score']:.3f}", _text(hit["label"]), hit["path"]]
            for one in self
            for hit in one["hits"]
        ]
        return Table(["query", "rank", "score", "label", "neighbour"], rows, [])

    def text(self, colour: bool = False) -> str:
        """A line a query, and one below it for each of its neighbours."""
        lines = []
        for one in self:
            lines.append(one["query"])
            for hit in one["hits"]:
                lines.append(f"{hit['rank']:>4}  {hit['score']:.3f}  {_text(hit['label']):<12}  {hit['path']}")
        return "\n".join(lines)


def _text(label: str | int | None) -> str:
    return "" if label is None else str(label)


def search(
    index: AnyIndex,
    queries: AnyQueries,
    k: int = 10,
    grid: AnyPath | None = None,
    picture_channels: AnyChannels | None = None,
    csv: AnyPath | None = None,
    encoder: AnyEncoder | None = None,
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Neighbours:
    """Find the nearest neighbours of images in an index.

    In Python, `index` may be an `EmbeddingIndex`, `queries` also one word or path, vectors (M, D), or whatever
    `open_images` takes, and `encoder` an `Encoder`, or the module of your own whose features the index holds.

    Args:
        index: Index folder; or, with --from, a database that index has written to, as KIND:ADDRESS#TABLE
            (lancedb:photos.lancedb, see there): a server's token is read from QDRANT_API_KEY or MILVUS_TOKEN.
        queries: Image files or items (shapes:test#17), folders or sets of images, vectors in a .npy; or what an image
            shows, "text:a red car", of an index whose encoder has a text tower (clip).
        k: Neighbours a query.
        grid: PNG file for a picture of the queries, the first fifty of them, and their neighbours.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.
        csv: CSV file for a row a neighbour, with query, rank, path, score and label.
        encoder: Run folder or encoder file to encode the queries with; must be the index's own, which is the default;
            for a database it is to be given.
        workers: Processes that read the images of folders and sets.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of the images of a folder or set that may be unreadable, in [0, 1]; they are left out.
        device: Where images are encoded.
        progress: Show a progress bar while folders and sets are encoded.

    Returns:
        For each query ``{"query", "label", "hits"}``: its name, its label where that is known, and a list of
        ``{"rank", "path", "score", "label"}``. An image that the index holds, by this name, is asked with its vector
        there and is not among its own hits; its file need not be there any more.

    Raises:
        UsageError: If the index or a query does not exist, vectors do not fit, or the encoder is another one.
        ToolkitError: If the index is damaged, or a query cannot be read.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, index, search
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = index(encoder, "shapes:train:40", f"{folder}/index", workers=0, progress=False)
        ...     found = search(made, "shapes:train:40#3", k=2, progress=False)
        >>> found[0]["query"], found[0]["label"], [hit["rank"] for hit in found[0]["hits"]]
        ('shapes:train:40#3', 'house', [1, 2])
    """
    from ssl_toolkit.data.shown import parse_picture_channels
    from ssl_toolkit.eval.search.databases import StoredIndex, is_database, open_database
    from ssl_toolkit.tasks.common import open_index
    from ssl_toolkit.tasks.queries import Asking

    if k < 1:
        raise UsageError(f"-k is {k}: it must be at least 1")
    shown = parse_picture_channels(picture_channels)
    with open_database(str(index)) if is_database(index) else contextlib.nullcontext() as database:
        opened = open_index(index) if database is None else StoredIndex(database)
        asking = Asking(opened, encoder, k, data_root, workers, max_bad_rate, device, progress)
        found = Neighbours(asking.answers(queries))
    if csv is not None:
        rows = ({"query": one["query"], **hit} for one in found for hit in one["hits"])
        write_csv(["query", "rank", "path", "score", "label"], rows, csv)
    if grid is not None:
        look: dict[str, Any] = {}
        if encoder is not None or opened.encoder_file is not None:  # of a database there may be no encoder
            config = asking.network.config
            look = {"channels": config.channels, "range": config.range}
        _draw(found[:ROWS], grid, data_root, picture_channels=shown, **look)
    return found


def _draw(found: list[dict[str, Any]], grid: AnyPath, data_root: str, **look: Any) -> None:
    from ssl_toolkit.eval.pictures.neighbours import known_label, neighbour_grid

    names, hits = [one["query"] for one in found], [one["hits"] for one in found]
    labels = [
        known_label(one["query"], one["hits"], data_root) if one["label"] is None else one["label"] for one in found
    ]
    neighbour_grid(names, hits, grid, root=data_root, query_labels=labels, **look)
