"""What may be asked of an index, and the answers to it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ssl_toolkit.data.image_set import ImageSet, Subset
from ssl_toolkit.data.items import Items
from ssl_toolkit.data.sources import FILES
from ssl_toolkit.encoders import Encoder, TextTower, encoder_metadata, load_encoder
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.search.databases import StoredIndex
from ssl_toolkit.eval.search.hits import TEXT, Item
from ssl_toolkit.eval.search.index import EmbeddingIndex, file_stamp
from ssl_toolkit.objects import describe
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.common import encode_all, image_loader, is_nameless, open_stills, text_tower

Rows: TypeAlias = NDArray[np.int64]


@dataclasses.dataclass
class Asking:
    """Answers to whatever may be asked of an index; the encoder is loaded only if there is something to encode.

    Args:
        index: The index.
        encoder: What encodes queries, see `search`; None for the index's own.
        k: Neighbours a query.
        data_root: Folder of torchvision's data sets.
        workers: Processes that read the images of folders and sets.
        max_bad_rate: Share of those that may be unreadable.
        device: Where images are encoded.
        progress: Show a progress bar while folders and sets are encoded.

    Raises:
        UsageError: If the encoder is another one than the index's.
    """

    index: EmbeddingIndex | StoredIndex
    encoder: str | os.PathLike[str] | nn.Module | None
    k: int
    data_root: str
    workers: int
    max_bad_rate: float
    device: str
    progress: bool

    def __post_init__(self) -> None:
        given = self.encoder
        if isinstance(given, str | os.PathLike):
            self.index.check_encoder(encoder_metadata(given)["sha256"])
        elif isinstance(given, Encoder):
            self.index.check_encoder(given.sha256)
        elif not (given is None or (isinstance(given, nn.Module) and self.index.encoder_file is not None)):
            raise UsageError(f"encoder is {describe(given)}: give a run folder or encoder file, an Encoder or a module")

    @functools.cached_property
    def network(self) -> Encoder:
        """The encoder, with the weights that the index holds."""
        given, stored = self.encoder, self._stored
        if isinstance(stored, Encoder):
            return stored
        if isinstance(given, nn.Module):
            own = given.own_module if isinstance(given, Encoder) else given
            return load_encoder(stored, backbone=copy.deepcopy(own))
        return load_encoder(stored if given is None else given)

    @property
    def _stored(self) -> Any:
        """Where the encoder is: the index's own file or, as a database holds none, what was given."""
        found = self.index.encoder_file or self.encoder
        if found is None:
            raise UsageError("a database holds no encoder: give --encoder, that of the index")
        return found

    def answers(self, queries: Any) -> Iterator[dict[str, Any]]:
        """What `search` returns; neighbouring queries of one image each are encoded together."""
        for kind, group in itertools.groupby(_listed(queries), self._kind):
            words = list(group)
            if kind == "image":
                yield from self._images(words)
            for word in words:
                if kind == "vectors":
                    yield from self._vectors(word)
                elif kind == "set":
                    yield from self._set(word)
                elif kind == "text":
                    yield self._text(word)

    def _kind(self, query: Any) -> str:
        """How a query is read: ``image``, ``text``, ``vectors``, or ``set`` for what `open_images` takes."""
        if not isinstance(query, str):
            return "vectors" if getattr(query, "ndim", 3) < 3 else "set"
        if self._own(query) is not None:
            return "image"
        if query.startswith(TEXT):
            return "text"
        if query.endswith(".npy") and os.path.isfile(query) and _open_npy(query).ndim < 3:
            return "vectors"
        is_file = os.path.isdir(query) or query.endswith(tuple(FILES))
        is_word = ":" in query and "#" not in query and not os.path.lexists(query)
        return "set" if is_file or is_word else "image"

    def _own(self, query: str) -> Item | None:
        """The image in the index; None where there is none, or its file has changed since."""
        if is_nameless(query):
            return None
        for path in dict.fromkeys((query, os.path.abspath(os.path.expanduser(query)))):
            if (item := self.index.at(path)) is not None:
                return item if item.stamp is None or file_stamp(path) in (None, item.stamp) else None
        return None

    def _images(self, words: list[str]) -> Iterator[dict[str, Any]]:
        def part(rows: Rows) -> ImageSet:
            config = self.network.config
            return Items([words[row] for row in rows], config.channels, root=self.data_root, range=config.range)

        yield from self._by_name(words, [None] * len(words), part, workers=0)

    def _set(self, given: Any) -> Iterator[dict[str, Any]]:
        images = open_stills(self.network, given, data_root=self.data_root, labels="auto", argument="queries")
        names = [images.path(row) for row in range(len(images))]
        classes, numbers = images.classes, images.labels.tolist()
        labels = [None if classes is None or number < 0 else classes[number] for number in numbers]
        yield from self._by_name(names, labels, lambda rows: Subset(images, rows), self.workers)

    def _by_name(
        self, names: list[str], labels: Sequence[str | None], part: Callable[[Rows], ImageSet], workers: int
    ) -> Iterator[dict[str, Any]]:
        """Answers to images: those that the index holds, and `part` of them, by position, which are to be encoded."""
        own = [self._own(name) for name in names]
        place = np.array([-1 if item is None else item.place for item in own])
        known, others = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
        hits: dict[int, list[dict[str, Any]]] = {}
        if len(known):
            hits |= zip(known.tolist(), self.index.neighbours_of(place[known], self.k).rows(), strict=True)
        if len(others):
            found, x = self._encode(part(others), workers, len(names))
            hits |= zip(others[found].tolist(), self.index.search(x, self.k).rows(), strict=True)
        for row in sorted(hits):
            item = own[row]
            yield {"query": names[row], "label": labels[row] if item is None else item.label, "hits": hits[row]}

    def _encode(self, images: ImageSet, workers: int, total: int) -> tuple[Rows, NDArray[np.float32]]:
        """Positions of the images that could be read, and their features."""
        loader = image_loader(
            self.network, images, workers=workers, max_bad_rate=self.max_bad_rate, progress=self.progress, total=total
        )
        features = encode_all(self.network, loader, self.device, self.progress and workers > 0)
        for path, reason in loader.bad.reasons.items():
            say(f"left out, it cannot be read: {path}: {reason}")
        return features.index, features.x

    @functools.cached_property
    def _texts(self) -> TextTower:
        """The text tower of the index.

        Raises:
            UsageError: It has none, or compares by another measure than texts are trained for.
        """
        if self.index.metric != "cosine":
            raise UsageError(f"texts are compared by cosine, the index by {self.index.metric}: build one of cosine")
        return text_tower(self._stored, self.index.dimension)

    def _text(self, query: str) -> dict[str, Any]:
        vector = self._texts.encode([query.removeprefix(TEXT).strip()]).numpy()
        return {"query": query, "label": None, "hits": next(iter(self.index.search(vector, self.k).rows()))}

    def _vectors(self, given: Any) -> Iterator[dict[str, Any]]:
        word, x = (given, _open_npy(given)) if isinstance(given, str) else (describe(given), np.asarray(given))
        if x.dtype.kind not in "fiu" or not x.size:
            raise UsageError(f"{word} holds {x.dtype} {x.shape}: vectors to search for are numbers, (N, D)")
        try:
            with np.errstate(over="ignore"):  # becomes infinite, which is refused
                found = self.index.search(np.asarray(x, dtype=np.float32), self.k).rows()
        except UsageError as error:
            raise UsageError(f"{word}: {error}") from error
        for row, hits in enumerate(found):
            yield {"query": f"{word}#{row}", "label": None, "hits": hits}


def _listed(queries: Any) -> list[Any]:
    """One query after the other: words, paths among them, or one object of another kind."""
    if isinstance(queries, str | os.PathLike):
        return [os.fspath(queries)]
    if isinstance(queries, list | tuple) and all(isinstance(query, str | os.PathLike) for query in queries):
        return [os.fspath(query) for query in queries]
    return [queries.detach().cpu() if isinstance(queries, Tensor) else queries]


def _open_npy(path: str) -> NDArray[np.generic]:
    try:
        opened: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read as an array of numbers: {error}") from error
    return opened
