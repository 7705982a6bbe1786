"""``ssl-toolkit search``: the nearest neighbours of images."""

from typing import Any

from ssl_toolkit.cli.parser import Parser, print_found, short_k
from ssl_toolkit.errors import UsageError


def search(
    index: str,
    queries: list[str],
    k: int = 10,
    grid: str | None = None,
    encoder: str | None = None,
    data_root: str = "data",
) -> list[list[dict[str, Any]]]:
    """Find the nearest neighbours of images in an index.

    Args:
        index: Index folder.
        queries: Image files, or items of a data set, like shapes:test#17.
        k: Neighbours a query.
        grid: PNG file for a picture of the queries and their neighbours.
        encoder: Run folder or encoder file to encode the queries with; must be the index's own, which is the default.
        data_root: Folder of torchvision's data sets.

    Returns:
        A list a query, of ``{"rank", "path", "score", "label"}``.

    Raises:
        UsageError: If the index or a query does not exist, or the encoder is another one.
        ToolkitError: If the index is damaged, or a query cannot be read.
    """
    import numpy as np
    import torch

    from ssl_toolkit.data.loader import center_crop
    from ssl_toolkit.data.sources import open_item
    from ssl_toolkit.encoders import encoder_metadata, load_encoder
    from ssl_toolkit.eval.search import EmbeddingIndex

    if k < 1:
        raise UsageError(f"-k is {k}: it must be at least 1")
    loaded = EmbeddingIndex.load(index)
    path = encoder or loaded.encoder_file
    loaded.check_encoder(encoder_metadata(path)["sha256"])
    network = load_encoder(path)
    size, channels = network.config.load_size, network.config.channels
    images = [center_crop(open_item(q, channels, root=data_root, size=size), size) for q in queries]
    with torch.inference_mode():
        features = network(network.eval_view()(torch.from_numpy(np.stack(images))))
    hits = loaded.search(features.numpy(), k).rows()
    if grid is not None:
        from ssl_toolkit.eval.neighbours import neighbour_grid

        neighbour_grid(queries, hits, grid, channels=channels, root=data_root)
    return hits


def table(queries: list[str], found: list[list[dict[str, Any]]]) -> str:
    """A line a query, and one below it for each of its neighbours."""
    lines = []
    for query, hits in zip(queries, found, strict=True):
        lines.append(query)
        for hit in hits:
            lines.append(f"{hit['rank']:>4}  {hit['score']:.3f}  {hit['label'] or '':<12}  {hit['path']}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("search", search, positional=("index", "queries"))
    about = "a list a query of rank, path, score, label"
    print_found(parser, short_k(argv), about, lambda settings, found: table(settings["queries"], found))
