"""``ssl-toolkit export``: an encoder as a file that others read without this package."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.cli.weights import add_weights, packed
from ssl_toolkit.tasks.exporting import export


def main(argv: list[str]) -> None:
    """The command."""
    settings = add_weights(Parser("export", export, positional=("run",))).parse(argv)
    if settings is not None:
        print(export(**packed(settings)))
