"""``ssl-toolkit segment``: what an encoder knows of each place of an image."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.segmenting import segment


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("segment", segment, positional=("run",)).parse(argv)
    if settings is not None:
        print(segment(**settings))
