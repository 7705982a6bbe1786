"""``ssl-toolkit outliers``: images of an index that are far from all others."""

from ssl_toolkit.cli.parser import Parser, print_found, short_k
from ssl_toolkit.tasks.curating import outliers


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("outliers", outliers, positional=("index",))
    print_found(parser, short_k(argv), "a list of path, score, label")
