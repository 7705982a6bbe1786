"""``ssl-toolkit doctor``: has a run collapsed, and why?"""

from ssl_toolkit.cli.parser import Parser, print_found
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.tasks.diagnosis import doctor


def main(argv: list[str]) -> None:
    """The command."""
    found = print_found(Parser("doctor", doctor, positional=("run",)), argv, "measures and findings")
    if found is not None and found.collapsed:
        raise ToolkitError("the run has collapsed")
