"""What a page can ask of an index: its map, the neighbours of any image of it, of a dropped one or of words, names.

What can be asked for is a place in the index, a piece of a name, or the neighbours of bytes or of words: no path ever
comes from the browser.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_toolkit.data.depth import Range
from ssl_toolkit.data.items import open_item
from ssl_toolkit.encoders import load_encoder, load_text, text_beside
from ssl_toolkit.errors import UsageError
from ssl_toolkit.eval.explore.embedding_map import EmbeddingMap, ProjectionName
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.png import picture_png
from ssl_toolkit.eval.pictures.words import shown
from ssl_toolkit.eval.search.image_bytes import MAX_BYTES, EncodeBytes, bytes_encoder
from ssl_toolkit.eval.search.index import EmbeddingIndex

FOUND = 20  # names that a search by name lists

EncodeText: TypeAlias = Callable[[str], NDArray[np.float32]]


class Explorer:
    """What the page can ask of an index, in values that are ready for JSON.

    A row of an answer is ``{"position", "name", "label", "score", "xy"}``: its place in the index, the name without
    what all names begin with, the number of its class among `classes` or -1, cosine or distance to the query, and its
    place on the map or None.

    Args:
        index: Its images are read again from where they lie, and no others.
        encode: Bytes of an image file to its features (D,), by the encoder that made the index.
        map: Where the items are drawn.
        channels: Channels of the images.
        root: Folder of torchvision's data sets.
        range: Of the images, see `open_images`.
        picture_channels: Which are shown, see `Look`.
        encode_text: What an image shows, in words, to a vector (D,) that is compared with features by cosine; None: the
            encoder has no text tower.
    """

    def __init__(
        self,
        index: EmbeddingIndex,
        encode: EncodeBytes,
        map: EmbeddingMap,
        channels: int = 3,
        root: str | os.PathLike[str] | None = None,
        range: Range | None = None,
        picture_channels: tuple[int, ...] = (),
        encode_text: EncodeText | None = None,
    ) -> None:
        self.index, self.map = index, map
        self._encode, self._channels, self._root, self._encode_text = encode, channels, root, encode_text
        self._range, self._shown = range, picture_channels
        self._paths = list(index.paths)  # which the index would read from the disk each time they are searched
        self._common = _shared_folder(min(self._paths), max(self._paths))
        self._on_map = {int(position): row for row, position in enumerate(map.position)}
        present = [] if index.labels is None else [int(label) for label in np.unique(index.labels) if label >= 0]
        self._class = {label: number for number, label in enumerate(present)}
        self.classes = [str(label) if index.classes is None else index.classes[label] for label in present]
        self.thumbnail = lru_cache(1024)(self._thumbnail)
        self._busy = threading.Lock()

    @classmethod
    def of(
        cls,
        index: EmbeddingIndex,
        *,
        points: int = 5000,
        projection: ProjectionName = "pca",
        device: str | torch.device = "cpu",
        root: str | os.PathLike[str] | None = None,
        picture_channels: tuple[int, ...] = (),
    ) -> Explorer:
        """The explorer of an index, with its own encoder; `points` and `projection` as in `EmbeddingMap.draw`."""
        encoder = load_encoder(index.encoder_file)
        config, encode = encoder.config, bytes_encoder(encoder, device)
        drawn = EmbeddingMap.draw(index, points, projection)
        texts = _texts_of(index)
        return cls(index, encode, drawn, config.channels, root, config.range, picture_channels, texts)

    def overview(self) -> dict[str, Any]:
        """The index in words and numbers, and the map: for each of its n points position, class, x and y."""
        return {
            "count": len(self.index),
            "data": shown(self.index.data, 60),
            "metric": self.index.metric,
            "how": self.index.how,
            "classes": [shown(name, 40) for name in self.classes],
            "texts": self._encode_text is not None,
            "map": {
                "about": self.map.about,
                "position": self.map.position.tolist(),
                "label": [self._label(int(position)) for position in self.map.position],
                "x": self.map.xy[:, 0].round(4).tolist(),
                "y": self.map.xy[:, 1].round(4).tolist(),
            },
        }

    def neighbours(self, position: int, k: int = 25) -> dict[str, Any]:
        """An item, and the k items that are nearest to it, without itself.

        Raises:
            UsageError: There is no item of that position.
        """
        self._check(position)
        query = np.array(self.index.vectors[position : position + 1])
        hits = self.index.search(query, k + 1)
        near = [
            (place, score) for place, score in zip(hits.position[0], hits.score[0], strict=True) if place != position
        ]
        return {"query": self._rows([(position, None)])[0], "hits": self._rows(near[:k])}

    def similar(self, content: bytes, k: int = 25) -> dict[str, Any]:
        """The k items nearest to an image, and its own place on the map.

        Args:
            content: Bytes of an image file.
            k: How many.

        Raises:
            UsageError: `content` is larger than `MAX_BYTES`.
            BadImageError: It is no image that can be read, or has more than `MAX_PIXELS`.
        """
        if len(content) > MAX_BYTES:
            raise UsageError(f"the file has {len(content):,} bytes: at most {MAX_BYTES:,} are taken")
        with self._busy:  # one at a time: a decoded image takes up to 200 MB
            query = self._encode(content)[None]
        hits = self.index.search(query, k)
        if self.index.metric == "cosine":
            query = query / max(float(np.linalg.norm(query)), 1e-12)
        xy = None if self.map.place is None else self.map.place(query)[0].round(4).tolist()
        return {"query": {"xy": xy}, "hits": self._rows(list(zip(hits.position[0], hits.score[0], strict=True)))}

    def described(self, text: str, k: int = 25) -> dict[str, Any]:
        """The k items that show most of what a text says; the text has no place on the map.

        Raises:
            UsageError: The encoder of the index has no text tower, or the text is empty.
        """
        if self._encode_text is None:
            raise UsageError("the encoder of this index knows no texts")
        if not text.strip():
            raise UsageError("there are no words to look for")
        with self._busy:
            query = self._encode_text(text.strip())[None]
        hits = self.index.search(query, k)
        return {"query": {"xy": None}, "hits": self._rows(list(zip(hits.position[0], hits.score[0], strict=True)))}

    def find(self, text: str) -> dict[str, Any]:
        """The first items whose name or class holds a text, upper or lower case, and whether there are more."""
        text = text.strip().lower()
        classes = {number for number, name in enumerate(self.classes) if text in name.lower()}
        found: list[tuple[int, None]] = []
        for position, path in enumerate(self._paths):
            if text in path[self._common :].lower() or (classes and self._label(position) in classes):
                if len(found) == FOUND:
                    return {"rows": self._rows(found), "more": True}
                found.append((position, None))
        return {"rows": self._rows(found), "more": False}

    def name(self, position: int) -> str:
        """The name of an item without what all names begin with, fit to be shown."""
        return shown(self._paths[position][self._common :], 80)

    def _thumbnail(self, position: int, side: int) -> bytes:
        """A PNG of the square middle of an item, `side` pixels high and wide; the last ones are kept.

        Raises:
            UsageError: There is no item of that position, or no such image any more.
            BadImageError: It cannot be read.
        """
        self._check(position)
        pixels = open_item(self._paths[position], self._channels, root=self._root, size=side, range=self._range)
        return picture_png(tile(pixels, side, self._shown))

    def _check(self, position: int) -> None:
        if not 0 <= position < len(self.index):
            raise UsageError(f"there is no image {position}: the index holds {len(self.index)}")

    def _label(self, position: int) -> int:
        return -1 if self.index.labels is None else self._class.get(int(self.index.labels[position]), -1)

    def _rows(self, near: list[tuple[int, Any]]) -> list[dict[str, Any]]:
        positions = [int(position) for position, _ in near]
        if self.map.place is not None and positions:
            xy: list[Any] = self.map.place(np.array(self.index.vectors[positions])).round(4).tolist()
        else:
            rows = [self._on_map.get(position) for position in positions]
            xy = [None if row is None else self.map.xy[row].round(4).tolist() for row in rows]
        return [
            {
                "position": position,
                "name": self.name(position),
                "label": self._label(position),
                "score": None if score is None else float(score),
                "xy": place,
            }
            for position, (_, score), place in zip(positions, near, xy, strict=True)
        ]


def _texts_of(index: EmbeddingIndex) -> EncodeText | None:
    """What encodes texts for an index, if it can be searched by them."""
    file = text_beside(index.encoder_file)
    if file is None or index.metric != "cosine":
        return None
    tower = load_text(file)

    def encode(text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = tower.encode([text])[0].numpy()
        return vector

    return encode


def _shared_folder(first: str, last: str) -> int:
    """Length of the folders, with the slash, that two names begin with: all do, if these come first and last."""
    pairs = enumerate(zip(first, last, strict=False))
    end = next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))
    return first.rfind("/", 0, end) + 1
