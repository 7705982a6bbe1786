"""``ssl-toolkit index``: a search index over images."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.cli.weights import add_weights, packed
from ssl_toolkit.tasks.indexing import index


def main(argv: list[str]) -> None:
    """The command."""
    parser = add_weights(Parser("index", index, positional=("run",)))
    settings = parser.parse(argv)
    if settings is not None:
        print(index(**packed(settings)))
