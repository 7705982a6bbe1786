"""``ssl-toolkit demo``: the whole way from images to a report, offline, in minutes."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.demo import demo


def main(argv: list[str]) -> None:
    """The command."""
    settings = Parser("demo", demo).parse(argv)
    if settings is not None:
        run = demo(**settings)
        print(f"{run.scores}\n\nreport: {run / 'report.html'}")
