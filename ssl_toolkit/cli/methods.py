"""``ssl-toolkit methods``: what can be trained."""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.methods import installed_methods, method_class


def methods() -> dict[str, str]:
    """List the methods that are installed, ours and other packages'.

    Returns:
        Short name to the first line of its description.
    """
    return {name: (method_class(name).__doc__ or "").split("\n")[0] for name in installed_methods()}


def main(argv: list[str]) -> None:
    """The command."""
    if Parser("methods", methods).parse(argv) is not None:
        for name, about in methods().items():
            print(f"{name:<20} {about}")
