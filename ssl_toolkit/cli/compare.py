"""``ssl-toolkit compare``: scored runs beside each other."""

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.tasks.comparing import compare


def main(argv: list[str]) -> None:
    """The command."""
    print_found(Parser("compare", compare, positional=("runs",)), argv, "a list of rows")
