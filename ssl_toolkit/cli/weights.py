"""The options for weights from elsewhere, of the commands that take them in the place of a run."""

from dataclasses import fields
from typing import Any

from ssl_toolkit.cli.parser import Parser
from ssl_toolkit.tasks.settings import Weights


def add_weights(parser: Parser) -> Parser:
    """The parser, with the options of `Weights`."""
    parser.add_class_arguments(Weights, skip={"path"})
    return parser


def packed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with ``run`` and those options as one."""
    options = {field.name: settings[field.name] for field in fields(Weights) if field.name != "path"}
    others = {name: value for name, value in settings.items() if name not in options}
    return {**others, "run": Weights(settings["run"], **options)}
