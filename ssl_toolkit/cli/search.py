"""``ssl-toolkit search``: the nearest neighbours of images."""

from ssl_toolkit.cli.parser import Parser, option_value, print_found, short_k, without_option
from ssl_toolkit.tasks.searching import search


def main(argv: list[str]) -> None:
    """The command; ``--from DATABASE`` stands for the index."""
    parser = Parser("search", search, positional=("index", "queries"))
    argv = short_k(argv)
    if (database := option_value(argv, "from")) is not None:
        argv = [database, *without_option(argv, "from")]
    print_found(parser, argv, "a list a query of query, label and hits, each with rank, path, score, label")
