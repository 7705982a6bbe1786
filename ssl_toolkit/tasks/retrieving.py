"""How well images find what belongs to them: the others of their class, or what a ground truth says."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.tasks.settings import AnyData, AnyIndex, AnyPath
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.eval.search.index import EmbeddingIndex

BEST = 10
"""Answers of copy detection to each query."""


class Retrieval(Found, dict[str, Any]):
    """Mean average precision, recall and the number of queries, by name; of the revisited protocol, by setting."""

    def table(self) -> Table:
        """A row a figure, or a setting; shares in percent."""
        if "medium" in self:
            rows = [[setting, *(_cell(*each) for each in figures.items())] for setting, figures in self.items()]
            return Table(["", *self["medium"]], rows, ["<10", *(">10" for _ in self["medium"])])
        cells = {name: f"{_cell(name, value):>8}{'' if name in _COUNTS else ' %'}" for name, value in self.items()}
        return Table([], [*cells.items()], ["<10", "<"])


_COUNTS = ("queries", "copies")


def _cell(name: str, value: float) -> str:
    return f"{value:,}" if name in _COUNTS else f"{100 * value:.1f}"


def retrieval(
    index: AnyIndex,
    queries: AnyData | None = None,
    truth: AnyPath | None = None,
    workers: int = 2,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    progress: bool = True,
) -> Retrieval:
    """Score an index: each image asks for the others of its class; or queries ask for what a ground truth names.

    Args:
        index: Index folder.
        queries: Images that ask, such as a folder; they and those of the index are known by their names without suffix.
        truth: What they are to find: .json, of revisited Oxford or Paris (imlist, qimlist, gnd), or .csv with columns
            query_id and reference_id, of copies.
        workers: Processes that read queries.
        device: Where queries are encoded.
        progress: Show a progress bar.

    Returns:
        Mean average precision `map`, `recall@1`, `recall@5` and `recall@10`, in [0, 1], and the number of `queries`; of
        the revisited protocol, for `easy`, `medium` and `hard`, `map`, `mp@1`, `mp@5`, `mp@10` and `queries`; of copies
        `micro_ap` over the ten best answers to each query, `recall@1`, the number of `copies` and of `queries`.

    Raises:
        UsageError: If there is no such index, no class in it has two images, or truth, queries and index do not belong
            together.

    Examples:
        >>> import tempfile
        >>> from ssl_toolkit import Encoder, index, retrieval
        >>> from ssl_toolkit.encoders import EncoderConfig
        >>> encoder = Encoder(EncoderConfig("convnet", image_size=32, load_size=32))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = index(encoder, "shapes:train:40", f"{folder}/index", workers=0, progress=False)
        ...     retrieval(made, progress=False)["queries"]
        40
    """
    from ssl_toolkit.eval.search import curate
    from ssl_toolkit.tasks.common import open_index

    if (queries is None) != (truth is None):
        raise UsageError("--queries and --truth belong together: images that ask, and what they are to find")
    opened = open_index(index)
    if queries is None:
        return Retrieval(curate.retrieval(opened))
    if Path(truth or "").suffix not in (".json", ".csv"):
        raise UsageError(f"--truth {truth}: give .json (revisited Oxford or Paris) or .csv (copies)")
    score = _revisited if Path(truth or "").suffix == ".json" else _copies
    return Retrieval(
        score(opened, queries, Path(truth or ""), {"workers": workers, "device": device, "progress": progress})
    )


def _named(paths: Sequence[str], wanted: list[str], what: str) -> list[int]:
    """Where images are in a list of paths, by their names without suffix.

    Raises:
        UsageError: One of them is not there.
    """
    places = {Path(path).stem: place for place, path in enumerate(paths)}
    missing = [name for name in wanted if Path(name).stem not in places and name not in places]
    if missing:
        raise UsageError(f"{len(missing)} of {len(wanted)} images of --truth are not in {what}, first '{missing[0]}'")
    return [places.get(name, places.get(Path(name).stem, -1)) for name in wanted]


def _asked(index: "EmbeddingIndex", queries: Any) -> "tuple[Encoder, ImageSet, list[str]]":
    """The index's encoder, the images that ask, and their paths."""
    from ssl_toolkit.encoders import load_encoder
    from ssl_toolkit.tasks.common import open_stills

    encoder = load_encoder(index.encoder_file)
    images = open_stills(encoder, queries, data_root="data", labels="none", argument="queries")
    return encoder, images, [images.path(row) for row in range(len(images))]


def _features(encoder: "Encoder", images: "ImageSet", how: dict[str, Any]) -> "NDArray[np.float32]":
    from ssl_toolkit.tasks.common import encode_all, image_loader

    loader = image_loader(encoder, images, workers=how["workers"], max_bad_rate=0.0, progress=how["progress"])
    return encode_all(encoder, loader, how["device"], how["progress"]).x


def _revisited(index: "EmbeddingIndex", queries: Any, truth: Path, how: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from ssl_toolkit.data.image_set import Boxed
    from ssl_toolkit.eval.search import judged

    database, questions = judged.read_revisited(truth)
    rows = np.array(_named(index.paths, database, "the index"))
    encoder, images, paths = _asked(index, queries)
    asking = np.array(_named(paths, [each.name for each in questions], "--queries"))
    x = _features(encoder, Boxed(images, asking, [each.box for each in questions]), how)
    return judged.revisited(judged.similarities(index, x, rows), [each.answers for each in questions])


def _copies(index: "EmbeddingIndex", queries: Any, truth: Path, how: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from ssl_toolkit.eval.search import judged

    pairs = judged.read_copies(truth)
    encoder, images, paths = _asked(index, queries)
    asking = [Path(path).stem for path in paths]
    _named(paths, sorted({query for query, _ in pairs}), "--queries")
    _named(index.paths, sorted({reference for _, reference in pairs}), "the index")
    names = np.array([Path(path).stem for path in index.paths])
    x = _features(encoder, images, how)
    score, right, first = [], [], 0
    everything = np.arange(len(index))
    for start in range(0, len(x), 256):
        similarity = judged.similarities(index, x[start : start + 256], everything)
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :BEST]
        score.append(np.take_along_axis(similarity, best, axis=1))
        for query, row in zip(asking[start : start + 256], names[best], strict=True):
            right.append([(query, reference) in pairs for reference in row.tolist()])
            first += right[-1][0]
    micro = judged.micro_average_precision(np.concatenate(score).ravel(), np.array(right).ravel(), len(pairs))
    copied = len({query for query, _ in pairs})
    return {"micro_ap": micro, "recall@1": first / copied, "copies": len(pairs), "queries": len(asking)}
