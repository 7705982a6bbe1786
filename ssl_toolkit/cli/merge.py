"""``ssl-toolkit merge``: one search index out of several."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.indexing import merge


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("merge", merge, positional=("indexes",)).parse(argv)
    if settings is not None:
        print(merge(**settings))
