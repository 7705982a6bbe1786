"""``ssl-toolkit embed``: features of images, on disk."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.cli.weights import add_weights, packed
from ssl_toolkit.tasks.embedding import embed


def main(argv: list[str]) -> None:
    """The command."""
    parser = add_weights(Parser("embed", embed, positional=("run",)))
    settings = parser.parse(argv)
    if settings is not None:
        print(embed(**packed(settings)))
