"""``ssl-toolkit explore``: a local web page to explore an index."""

from ssl_toolkit.cli.parser import Parser, short_k
from ssl_toolkit.tasks.exploring import explore


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("explore", explore, positional=("index",)).parse(short_k(argv))
    if settings is not None:
        explore(**settings)
