"""``ssl-toolkit evaluate``: how good is an encoder, beside random weights and raw pixels?"""

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.cli.weights import add_weights, packed
from ssl_toolkit.tasks.evaluation import evaluate


def main(argv: list[str]) -> None:
    """The command."""
    parser = add_weights(Parser("evaluate", evaluate, positional=("run",), several=("sets",)))
    settings = parser.parse(argv)
    if settings is not None:
        print(evaluate(**packed(settings)))
