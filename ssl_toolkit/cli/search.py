"""``ssl-toolkit search``: the nearest neighbours of images."""

import csv as csv_format
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.cli.parser import Parser, print_found, short_k
from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    Rows = NDArray[np.int64]

ROWS = 50  # of the picture


def search(
    index: str,
    queries: list[str],
    k: int = 10,
    grid: str | None = None,
    csv: str | None = None,
    encoder: str | None = None,
    workers: int = 2,
    data_root: str = "data",
    max_bad_rate: float = 0.01,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Find the nearest neighbours of images in an index.

    Args:
        index: Index folder.
        queries: Image files or items (shapes:test#17), folders or sets of images, vectors in a .npy.
        k: Neighbours a query.
        grid: PNG file for a picture of the queries, the first fifty of them, and their neighbours.
        csv: CSV file for a row a neighbour, with query, rank, path, score and label.
        encoder: Run folder or encoder file to encode the queries with; must be the index's own, which is the default.
        workers: Processes that read the images of folders and sets.
        data_root: Folder of torchvision's data sets.
        max_bad_rate: Share of the images of a folder or set that may be unreadable, in [0, 1]; they are left out.
        device: Where images are encoded.
        progress: Whether a progress bar is shown while folders and sets are encoded.

    Returns:
        For each query ``{"query", "label", "hits"}``: its name, its label where that is known, and a list of
        ``{"rank", "path", "score", "label"}``. An image that the index holds, by this name, is asked with its vector
        there and is not among its own hits; its file need not be there any more.

    Raises:
        UsageError: If the index or a query does not exist, vectors do not fit, or the encoder is another one.
        ToolkitError: If the index is damaged, or a query cannot be read.
    """
    from ssl_toolkit.encoders import encoder_metadata
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    if k < 1:
        raise UsageError(f"-k is {k}: it must be at least 1")
    loaded = EmbeddingIndex.load(index)
    if encoder is not None:
        loaded.check_encoder(encoder_metadata(encoder)["sha256"])
    asking = _Asking(loaded, encoder or loaded.encoder_file, k, data_root, workers, max_bad_rate, device, progress)
    found = list(asking.answers(queries))
    if csv is not None:
        write_csv(found, csv)
    if grid is not None:
        from ssl_toolkit.eval.pictures.neighbours import known_label, neighbour_grid

        shown = found[:ROWS]
        names, hits = [one["query"] for one in shown], [one["hits"] for one in shown]
        labels = [
            known_label(one["query"], one["hits"], data_root) if one["label"] is None else one["label"] for one in shown
        ]
        channels = asking.network.config.channels
        neighbour_grid(names, hits, grid, channels=channels, root=data_root, query_labels=labels)
    return found


@dataclasses.dataclass
class _Asking:
    """Answers to whatever may be asked of an index; the encoder is loaded only if there is something to encode."""

    index: "EmbeddingIndex"
    encoder: str | Path
    k: int
    data_root: str
    workers: int
    max_bad_rate: float
    device: str
    progress: bool

    @functools.cached_property
    def network(self) -> "Encoder":
        from ssl_toolkit.encoders import load_encoder

        return load_encoder(self.encoder)

    @functools.cached_property
    def _place(self) -> dict[str, int]:
        return {path: number for number, path in enumerate(self.index.paths)}

    def answers(self, queries: list[str]) -> Iterator[dict[str, Any]]:
        """What `search` returns; neighbouring queries of one image each are encoded together."""
        for kind, group in itertools.groupby(queries, self._kind):
            words = list(group)
            if kind == "image":
                yield from self._images(words)
            for word in words:
                if kind == "vectors":
                    yield from self._vectors(word)
                elif kind == "set":
                    yield from self._set(word)

    def _kind(self, query: str) -> str:
        """How a query is read: ``image``, ``vectors``, or ``set`` for a word of `open_images`."""
        if self._own(query) is not None:
            return "image"
        if query.endswith(".npy") and os.path.isfile(query) and _open_npy(query).ndim < 3:
            return "vectors"
        is_file = os.path.isdir(query) or query.endswith((".csv", ".npy", ".npz"))
        is_word = ":" in query and "#" not in query and not os.path.lexists(query)
        return "set" if is_file or is_word else "image"

    def _own(self, query: str) -> int | None:
        """Position of an image in the index; None where there is none, or its file has changed since."""
        from ssl_toolkit.eval.search.index import file_stamp

        place = self._place.get(query, self._place.get(os.path.abspath(os.path.expanduser(query))))
        stamp = None if place is None else self.index.stamps[place]
        return place if stamp is None or file_stamp(self.index.paths[place or 0]) in (None, stamp) else None

    def _images(self, words: list[str]) -> Iterator[dict[str, Any]]:
        from ssl_toolkit.data.items import Items

        def part(rows: "Rows") -> "ImageSet":
            return Items([words[row] for row in rows], self.network.config.channels, root=self.data_root)

        yield from self._by_name(words, [None] * len(words), part, workers=0)

    def _set(self, word: str) -> Iterator[dict[str, Any]]:
        from ssl_toolkit.data.image_set import Subset
        from ssl_toolkit.tasks.common import open_stills

        images = open_stills(self.network, word, data_root=self.data_root, labels="auto")
        names = [images.path(row) for row in range(len(images))]
        classes, numbers = images.classes, images.labels.tolist()
        labels = [None if classes is None or number < 0 else classes[number] for number in numbers]
        yield from self._by_name(names, labels, lambda rows: Subset(images, rows), self.workers)

    def _by_name(
        self, names: list[str], labels: Sequence[str | None], part: "Callable[[Rows], ImageSet]", workers: int
    ) -> Iterator[dict[str, Any]]:
        """Answers to images: those that the index holds, and `part` of them, by position, which are to be encoded."""
        import numpy as np

        place = np.array([-1 if (own := self._own(name)) is None else own for name in names])
        known, others = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
        hits: dict[int, list[dict[str, Any]]] = {}
        if len(known):
            hits |= zip(known.tolist(), self.index.neighbours_of(place[known], self.k).rows(), strict=True)
        if len(others):
            found, x = self._encode(part(others), workers, len(names))
            hits |= zip(others[found].tolist(), self.index.search(x, self.k).rows(), strict=True)
        for row in sorted(hits):
            label = labels[row] if place[row] < 0 else self.index.label(place[row])
            yield {"query": names[row], "label": label, "hits": hits[row]}

    def _encode(self, images: "ImageSet", workers: int, total: int) -> "tuple[Rows, NDArray[np.float32]]":
        """Positions of the images that could be read, and their features."""
        from ssl_toolkit.tasks.common import encode_all, image_loader

        loader = image_loader(
            self.network, images, workers=workers, max_bad_rate=self.max_bad_rate, progress=self.progress, total=total
        )
        features = encode_all(self.network, loader, self.device, self.progress and workers > 0)
        for path, reason in loader.bad.reasons.items():
            say(f"left out, it cannot be read: {path}: {reason}")
        return features.index, features.x

    def _vectors(self, word: str) -> Iterator[dict[str, Any]]:
        import numpy as np

        x = _open_npy(word)
        if x.dtype.kind not in "fiu" or not x.size:
            raise UsageError(f"{word} holds {x.dtype} {x.shape}: vectors to search for are numbers, (N, D)")
        try:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused
                found = self.index.search(np.asarray(x, dtype=np.float32), self.k).rows()
        except UsageError as error:
            raise UsageError(f"{word}: {error}") from error
        for row, hits in enumerate(found):
            yield {"query": f"{word}#{row}", "label": None, "hits": hits}


def _open_npy(path: str) -> "NDArray[np.generic]":
    import numpy as np

    try:
        opened: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as an array of numbers: {error}") from error
    return opened


def write_csv(found: list[dict[str, Any]], out: str) -> None:
    """A row a neighbour: query, rank, path, score, label.

    Raises:
        UsageError: `out` cannot be written.
    """
    from ssl_toolkit.files import make_folder, write_atomic

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv_format.DictWriter(file, ["query", "rank", "path", "score", "label"])
            writer.writeheader()
            writer.writerows({"query": one["query"], **hit} for one in found for hit in one["hits"])

    make_folder(Path(out).parent, "--csv")
    try:
        write_atomic(out, write)
    except OSError as error:
        raise UsageError(f"--csv {out} cannot be written: {error.strerror}") from error


def table(found: list[dict[str, Any]]) -> str:
    """A line a query, and one below it for each of its neighbours."""
    lines = []
    for one in found:
        lines.append(one["query"])
        for hit in one["hits"]:
            label = "" if hit["label"] is None else hit["label"]
            lines.append(f"{hit['rank']:>4}  {hit['score']:.3f}  {label:<12}  {hit['path']}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("search", search, positional=("index", "queries"))
    about = "a list a query of query, label and hits, each with rank, path, score, label"
    print_found(parser, short_k(argv), about, lambda settings, found: table(found))
