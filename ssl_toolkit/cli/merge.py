"""``ssl-toolkit merge``: one search index out of several."""

from pathlib import Path

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say


def merge(indexes: list[str], out: str, index: str = "auto", overwrite: bool = False) -> Path:
    """Merge search indexes of one encoder, such as those of the shards of a large set of images.

    Vectors pass from disk to disk, so memory need not hold them; what finds them is trained and measured anew.

    Args:
        indexes: Index folders. An image that several of them hold, by its path, is taken from the last of these.
        out: The folder to make.
        index: How neighbours are found, in the words of FAISS's index_factory; auto: as all of them were asked to be,
            or else by the number of images.
        overwrite: Whether an index in `out` may be replaced; it may be one of those that are merged.

    Returns:
        The folder.

    Raises:
        UsageError: If one of them does not exist, they are of several encoders or metrics, or `out` holds an index.
        ToolkitError: If one of them is damaged.
    """
    from ssl_toolkit.eval.search.approximate import empty_index
    from ssl_toolkit.eval.search.index import EmbeddingIndex
    from ssl_toolkit.files import make_folder

    folder = Path(out)
    if (folder / "manifest.json").exists() and not overwrite:
        raise UsageError(f"--out {out} holds an index already: give --overwrite, or name another folder")
    parts = [EmbeddingIndex.load(part) for part in indexes]
    total = sum(map(len, parts))
    if index != "auto":
        empty_index(index, total, parts[0].dimension, parts[0].metric)
    make_folder(folder, "--out")
    merged = EmbeddingIndex.merged(parts, None if index == "auto" else index, scratch=folder)
    if twice := total - len(merged):
        say(f"{twice} images are in several of them and are taken from the last of these")
    merged.save(folder, overwrite)
    say(f"{len(merged)} images, {merged.dimension} features, {merged.metric}, {merged.how}")
    return folder


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("merge", merge, positional=("indexes",)).parse(argv)
    if settings is not None:
        print(merge(**settings))
