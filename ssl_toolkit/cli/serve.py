"""``ssl-toolkit serve``: a search index over HTTP."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.serving import serve


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("serve", serve, positional=("index",)).parse(argv)
    if settings is not None:
        serve(**settings)
