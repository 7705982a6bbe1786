"""``ssl-toolkit retrieval``: how well the images of an index find the others of their class."""

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.tasks.retrieving import retrieval


def main(argv: list[str]) -> None:
    """The command."""
    print_found(Parser("retrieval", retrieval, positional=("index",)), argv, "the figures by name")
