"""``ssl-toolkit report``: a run folder as one HTML page."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.reporting import report


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("report", report, positional=("run",)).parse(argv)
    if settings is not None:
        print(report(**settings))
