"""``ssl-toolkit duplicates``: images of an index that are copies of one another."""

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.curating import duplicates


def main(argv: list[str]) -> None:
    """The command."""
    parser = Parser("duplicates", duplicates, positional=("index",))
    about = "a list of groups, each a list of path, keep, likeness, label and bytes"
    groups = print_found(parser, argv, about)
    if groups is not None:
        say(groups.summary())
