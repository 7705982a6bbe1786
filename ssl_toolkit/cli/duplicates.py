"""``ssl-toolkit duplicates``: images of an index that are nearly the same."""

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.errors import UsageError

ROWS, TILES = 20, 9  # of the picture


def duplicates(
    index: str, threshold: float = 0.99, grid: str | None = None, data_root: str = "data"
) -> list[list[str]]:
    """Find groups of images that are nearly the same, the largest first.

    Args:
        index: Index folder.
        threshold: Least cosine of a pair, from -1 to 1; of an index by l2 its greatest distance.
        grid: PNG file for a picture of the largest groups, a row each.
        data_root: Folder of torchvision's data sets.

    Returns:
        The paths of each group.

    Raises:
        UsageError: If there is no such index, or the threshold is out of range.
    """
    import numpy as np

    from ssl_toolkit.eval.search import curate
    from ssl_toolkit.eval.search.index import EmbeddingIndex

    loaded = EmbeddingIndex.load(index)
    cosine = loaded.metric == "cosine"
    if not (-1 <= threshold <= 1 if cosine else threshold >= 0):
        limits = "from -1 to 1" if cosine else "at least 0"
        raise UsageError(f"--threshold is {threshold}: for an index by {loaded.metric} it must be {limits}")
    groups = curate.duplicates(loaded, threshold)
    if grid is not None and groups:
        from ssl_toolkit.eval.pictures.neighbours import neighbour_grid

        hits = []
        for first, *others in groups[:ROWS]:
            x, near = loaded.vectors[first], loaded.vectors[others[:TILES]]
            score = near @ x if cosine else np.linalg.norm(near - x, axis=1)
            hits.append(
                [
                    {"path": loaded.paths[place], "score": float(one), "label": loaded.label(place)}
                    for place, one in zip(others, score, strict=False)
                ]
            )
        neighbour_grid([loaded.paths[group[0]] for group in groups[:ROWS]], hits, grid, root=data_root)
    return [[loaded.paths[place] for place in group] for group in groups]


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("duplicates", duplicates, positional=("index",))
    print_found(
        parser, argv, "a list of groups of paths", lambda settings, groups: "\n\n".join("\n".join(g) for g in groups)
    )
