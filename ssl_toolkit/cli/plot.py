"""``ssl-toolkit plot``: one picture of an encoder, by name."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.plotting import plot


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("plot", plot, positional=("name", "run")).parse(argv)
    if settings is not None:
        print(plot(**settings))
