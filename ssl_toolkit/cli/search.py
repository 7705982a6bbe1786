"""``ssl-toolkit search``: the nearest neighbours of images."""

from ssl_toolkit.cli.parser import Parser, print_found, short_k
from ssl_toolkit.tasks.searching import search


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("search", search, positional=("index", "queries"))
    print_found(parser, short_k(argv), "a list a query of query, label and hits, each with rank, path, score, label")
