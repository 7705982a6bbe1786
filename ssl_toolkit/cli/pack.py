"""``ssl-toolkit pack``: images of any source as shards."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.packing import pack


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("pack", pack).parse(argv)
    if settings is not None:
        print(pack(**settings))
