"""``ssl-toolkit propagate``: carry the colours of a clip's first frame, and a mask, through the clip."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.propagating import propagate


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("propagate", propagate, positional=("run",)).parse(argv)
    if settings is not None:
        print(propagate(**settings))
