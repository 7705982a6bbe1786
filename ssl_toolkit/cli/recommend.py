"""``ssl-toolkit recommend``: what to pretrain with on these images and this machine."""

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.tasks.recommending import recommend


def main(argv: list[str]) -> None:
    """The command."""
    print_found(Parser("recommend", recommend), argv, "choices, notes, command, seconds, facts")
