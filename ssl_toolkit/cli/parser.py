"""The parser that all commands share: jsonargparse over a typed function, with the conveniences of this project.

- Options are written with hyphens or underscores, and never abbreviated.
- A name alone stands for a group with that name: ``--method simclr`` is ``--method.name simclr``.
- ``--config FILE`` gives settings that options override; ``--print-config`` prints what would be run.
- What does not exist is answered with the nearest thing that does.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from ssl_toolkit.cli.complaints import complaint
from ssl_toolkit.cli.help import help_text
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.runs import RunFolder, flatten, without_history
from ssl_toolkit.tasks.tables import Found

_BOOLEANS = ("true", "false", "yes", "no")


class Parser(ArgumentParser):
    """A parser for one command.

    Args:
        command: The command's name.
        function: What it runs: docstring and signature give description, options, types and defaults.
        positional: Parameters that are given without a name; the last may take many values.
        skip: Parameters that are no options of their own.
        several: Options that take one or more words.
    """

    def __init__(
        self,
        command: str,
        function: Callable[..., Any],
        positional: Sequence[str] = (),
        skip: Iterable[str] = (),
        several: Sequence[str] = (),
    ) -> None:
        description = (function.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")
        super().__init__(
            prog=f"ssl-toolkit {command}",
            description=description,
            allow_abbrev=False,
            exit_on_error=False,
            print_config=None,
        )
        self.groups_with_name: list[str] = []
        self.left_open = ""  # a group of which only what is given is a setting: its defaults depend on the images
        self.flags: set[str] = set()
        self.needed: set[str] = set()
        self.function = function
        about = "YAML file with settings, or the name of a recipe; options override it"
        self.add_argument("--config", type=str, help=about, metavar="FILE")
        self.add_argument("--print_config", action="store_true", help="print the whole configuration and stop")
        self.add_parameters(function, {*skip, *positional, *several})
        for name in positional:
            self.add_words(name)
        for name in several:
            self.add_words(name, f"--{name}")

    def add_parameters(self, function: Callable[..., Any], skip: Iterable[str]) -> None:
        """Add the parameters of a function as options, but those to `skip`."""
        self.flags |= {f"--{k}" for k, v in get_type_hints(function).items() if v is bool}
        self.add_function_arguments(function, as_positional=False, skip={*skip})

    def add_words(self, name: str, option: str | None = None) -> None:
        """Add a parameter of the function that is given by its place, or as an option of one or more words."""
        documented = re.search(rf"^ +{name}: (.+(\n {{12,}}.+)*)", self.function.__doc__ or "", re.MULTILINE)
        options: dict[str, Any] = {"type": str, "help": " ".join(documented[1].split()) if documented else None}
        if str(self.function.__annotations__[name]).startswith(("list", "collections.abc.Sequence")):
            options["nargs"] = "+"
        if option and inspect.signature(self.function).parameters[name].default is inspect.Parameter.empty:
            options["required"] = True
        self.add_argument(option or name, **options)

    def add_named_group(self, group: str) -> None:
        """Let the name alone stand for the group: ``--encoder resnet18`` for ``--encoder.name resnet18``."""
        self.groups_with_name.append(group)

    def parse(self, argv: Sequence[str]) -> dict[str, Any] | None:
        """Settings from `argv` and the config file that it names; None if the user only wanted to look.

        Raises:
            UsageError: If an option does not exist or has a wrong value.
        """
        argv = normalize(argv, self.groups_with_name)
        self.needed = {action.dest for action in self._actions if action.required}  # jsonargparse hides it meanwhile
        # A flag alone says yes.
        argv = [
            f"{token}=true" if token in self.flags and following.lower() not in _BOOLEANS else token
            for token, following in zip(argv, [*argv[1:], ""], strict=False)
        ]
        known = {s for action in self._actions for s in action.option_strings}
        for token in argv:
            option = token.split("=")[0]
            if option.startswith("--") and option not in known:
                raise _hyphenated(unknown_name("option", option, (k for k in known if k.startswith("--"))))
        try:
            settings, given = None, None
            config = config_file(argv)
            if config is not None:
                keys = {action.dest for action in self._actions}
                values = read_config(config, self.groups_with_name)
                for key in flatten(values):
                    if not any(key == k or key.startswith(f"{k}.") for k in keys):
                        raise unknown_name(f"setting in {config}", key, keys - {"help", "config", "print_config"})
                settings = self.parse_object(values, defaults=True, _skip_validation=True)
                given = self.parse_object(values, defaults=False, _skip_validation=True)
            look = "--print_config" in argv
            parsed = plain(self.parse_args(argv, namespace=settings, **({"_skip_validation": True} if look else {})))
            if self.left_open:
                told = plain(self.parse_args(argv, namespace=given, defaults=False, _skip_validation=True))
                parsed[self.left_open] = told.get(self.left_open, {})
        except argparse.ArgumentError as error:
            raise UsageError(complaint(str(error), self._actions, self.spelled)) from error
        if look:
            print(yaml.safe_dump(_without_ours(parsed), sort_keys=False), end="")
            return None
        return _without_ours(parsed)

    def format_help(self, *args: Any) -> str:
        """The help text, with options as users write them."""
        for action in self._actions:
            if action.dest in self.groups_with_name or action.dest == "views":
                action.help = argparse.SUPPRESS  # jsonargparse's option for a group as one YAML text
        command = self.prog.partition(" ")[2]
        return help_text(command, self.description or "", self._actions, self.needed, self.spelled)

    def spelled(self, name: str) -> str:
        """An option as users write it; a parameter that is given by its place stays."""
        if name in (action.dest for action in self._actions if not action.option_strings):
            return name
        group, _, end = name.partition(".")
        short = group if end == "name" and group in self.groups_with_name else name
        return f"--{short.replace('_', '-')}"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the whole usage."""
        raise UsageError(complaint(message, self._actions, self.spelled)) from ex


def print_found(parser: Parser, argv: Sequence[str], about_json: str) -> Any:
    """Run a command's function and print what it found: as text or, with ``--json``, as JSON; return it.

    Args:
        parser: The command's.
        argv: Its arguments.
        about_json: What the JSON is, for the help.
    """
    parser.add_argument("--json", action="store_true", help=f"print JSON: {about_json}")
    settings = parser.parse(argv)
    if settings is None:
        return None
    as_json = settings.pop("json")
    found = parser.function(**settings)
    print(json.dumps(found, indent=1) if as_json else in_terminal(found))
    return found


def in_terminal(found: Any) -> str:
    """What a task found as text, in colours where there are such."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return found.text(colour) if isinstance(found, Found) else str(found)


def short_k(argv: Sequence[str]) -> list[str]:
    """The arguments, normalised, with ``-k 5``, ``-k5`` and ``-k=5`` written as ``--k``."""
    return [re.sub(r"^-k=?(?=.)", "--k=", token) if token != "-k" else "--k" for token in normalize(argv)]


def normalize(argv: Sequence[str], groups_with_name: Iterable[str] = ()) -> list[str]:
    """Options with underscores, and a group's bare name spelled out."""
    out = []
    for token in argv:
        if token.startswith("--"):
            option, equals, value = token.partition("=")
            option = "--" + option[2:].replace("-", "_")
            if option[2:] in groups_with_name:
                option += ".name"
            token = option + equals + value
        out.append(token)
    return out


def option_value(argv: Sequence[str], option: str) -> str | None:
    """The last value of ``--option VALUE`` or ``--option=VALUE`` in `argv`."""
    value = None
    for position, token in enumerate(argv):
        if token == f"--{option}" and position + 1 < len(argv):
            value = argv[position + 1]
        elif token.startswith(f"--{option}="):
            value = token.split("=", 1)[1]
    return value


def without_option(argv: Sequence[str], option: str) -> list[str]:
    """The arguments without ``--option VALUE`` and ``--option=VALUE``."""
    before = ["", *argv]
    return [
        token
        for token, last in zip(argv, before, strict=False)
        if f"--{option}" not in (token, last) and not token.startswith(f"--{option}=")
    ]


def config_file(argv: Sequence[str]) -> str | None:
    """The file that ``--config`` names."""
    return option_value(argv, "config")


def with_config_to_resume(argv: list[str]) -> list[str]:
    """The arguments, with the configuration of the run in ``--out`` before them if it is to be resumed."""
    out = option_value(argv, "out")
    if "--resume" in argv and out and config_file(argv) is None and RunFolder(out).config_file.is_file():
        return ["--config", str(RunFolder(out).config_file), *argv]
    return argv


def read_config(name: str, groups_with_name: Iterable[str] = ()) -> dict[str, Any]:
    """The settings in a YAML file, or in the recipe of that name that comes with the toolkit.

    Raises:
        UsageError: If it cannot be read or is no mapping.
    """
    recipes = {path.stem: path for path in Path(str(files("ssl_toolkit.configs"))).glob("*.yaml")}
    path = Path(name)
    if not path.exists() and not path.suffix:
        if name not in recipes:
            raise unknown_name("recipe", name, recipes)
        path = recipes[name]
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"--config {name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {name} must hold 'name: value' lines")
    values = _underscored(without_history(values))
    for group in groups_with_name:
        if isinstance(values.get(group), str):
            values[group] = {"name": values[group]}
        if not isinstance(values.get(group, {}), dict):
            raise UsageError(f"--config {name}: '{group}' must be a name, or settings with a name among them")
    return values


def _underscored(values: dict[Any, Any]) -> dict[str, Any]:
    """Keys with underscores for hyphens, at every depth."""
    return {
        str(key).replace("-", "_"): _underscored(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def plain(namespace: Namespace | dict[str, Any]) -> dict[str, Any]:
    """Settings as nested dictionaries of plain values, as YAML holds them."""
    values = namespace.as_dict() if isinstance(namespace, Namespace) else namespace
    return {k: _plain_value(v) for k, v in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict | Namespace):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain_value(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _without_ours(values: dict[str, Any]) -> dict[str, Any]:
    """Settings without the options of the parser itself."""
    return {key: value for key, value in values.items() if key not in ("config", "print_config")}


def _hyphenated(error: UsageError) -> UsageError:
    return UsageError(re.sub(r"--[\w.]+", lambda m: m.group().replace("_", "-"), str(error)))
