"""The text of ``--help``: five lines of usage, and options by topic, each with its kind and default once."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args, get_origin

TOPICS = {
    "Input": (
        *("run", "runs", "index", "indexes", "queries", "picture", "method.name", "data", "train", "test", "sets"),
        *("clip", "masks", "protocol", "baselines"),
    ),
    "Several runs": ("sweep grid", "random", "seeds", "sweep devices"),
    "Output": ("out", "csv", "json", "chart", "grid", "format", "overwrite", "resume", "extend"),
    "Images": (
        *("image_size", "load_size", "channels", "range", "picture_channels", "labels", "max_bad_rate", "data_root"),
    ),
    "Weights to start from": ("weights", "architecture", "weights_key", "mean", "std"),
    "Training": (
        *("epochs", "batch_size", "seed", "accumulate", "clip_gradient", "clip_mode", "precision", "sync_batch_norm"),
        "recalibrate",
    ),
    "While it trains": ("checkpoint_every", "requeue", "knn_every", "doctor", "logger"),
    "More options": (),
    **dict.fromkeys(("Method", "Encoder", "Optimiser", "Views"), ()),
    "Machine": ("accelerator", "device", "devices", "nodes", "strategy", "workers", "cache", "compile", "progress"),
    "Help and settings": ("help", "config", "print_config"),
}
"""Topics and their options in order, those of one command only behind its name; the rest are `"More options"`."""

GROUPS = {"method": "Method", "encoder": "Encoder", "optimizer": "Optimiser", "views": "Views"}
"""Topics of options that begin with the name of a group."""

WIDTH, COLUMN, USAGE_LINES = 100, 28, 5

Spelled: TypeAlias = Callable[[str], str]


def help_text(
    command: str, about: str, actions: Sequence[argparse.Action], required: Container[str], spelled: Spelled
) -> str:
    """The whole text.

    Args:
        command: Its name.
        about: What it does.
        actions: Its options, as argparse has them.
        required: Names of those that must be given.
        spelled: From the name of an option to how users write it.
    """
    shown = [action for action in actions if action.help != argparse.SUPPRESS]
    needed = [f"{spelled(a.dest)} {kind(a)}" for a in shown if a.option_strings and a.dest in required]
    places = [a.dest.upper() + (" ..." if a.nargs == "+" else "") for a in shown if not a.option_strings]
    usage = " ".join(["usage: ssl-toolkit", command, *places, *needed, "[options]"])
    lines = textwrap.wrap(usage, WIDTH, subsequent_indent=" " * 7, max_lines=USAGE_LINES)
    lines += ["", textwrap.fill(about, WIDTH)]
    for topic, options in _by_topic(command, shown).items():
        lines += ["", f"{topic}:"]
        for action in options:
            left = f"{spelled(action.dest)} {kind(action)}".rstrip() if action.option_strings else action.dest.upper()
            lines += _entry(left, _about(action, actions, spelled) + _default(action, action.dest in required))
    return "\n".join(lines) + "\n"


def _by_topic(command: str, actions: Iterable[argparse.Action]) -> dict[str, list[argparse.Action]]:
    places = {option: (topic, number) for topic, options in TOPICS.items() for number, option in enumerate(options)}
    found: dict[str, list[tuple[int, argparse.Action]]] = {topic: [] for topic in TOPICS}
    for action in actions:
        group, dot, _ = action.dest.partition(".")
        unknown = (GROUPS.get(group, "More options") if dot else "More options", 0)
        topic, number = places.get(f"{command} {action.dest}") or places.get(action.dest, unknown)
        found[topic].append((number, action))
    return {
        topic: [action for _, action in sorted(options, key=lambda option: option[0])]
        for topic, options in found.items()
        if options
    }


def _entry(left: str, right: str) -> list[str]:
    lines = textwrap.wrap(right, WIDTH - COLUMN, break_on_hyphens=False) or [""]
    lines = [line.replace("\xa0", " ") for line in lines]
    first = [f"  {left}"] if len(left) + 4 > COLUMN else [f"  {left:<{COLUMN - 2}}{lines.pop(0)}"]
    return first + [" " * COLUMN + line for line in lines]


def _about(action: argparse.Action, actions: Iterable[argparse.Action], spelled: Spelled) -> str:
    """What an option is for, other options in it as users write them."""
    group = action.dest.rpartition(".")[0]
    names = {a.dest.rpartition(".")[2]: spelled(a.dest) for a in actions if a.dest.rpartition(".")[0] in ("", group)}

    def written(found: re.Match[str]) -> str:
        word = found[0].strip("`")
        return names.get(word, word) if "`" in found[0] or "_" in word else word

    text = re.sub(r"(?<!\.)\.$", "", " ".join((action.help or "").split()))
    text = re.sub(r"`+[^`]*`+|(?<![-\w.])[a-z]+(?:_[a-z]+)+\b", written, text).replace(" %", "\xa0%")
    return text if re.match(r"\w+:", text) else text[:1].upper() + text[1:]


def kind(action: argparse.Action) -> str:
    """What is to be written behind an option; nothing behind what is only said."""
    hint = type_of(action)
    if action.nargs == 0 or (hint is bool and not action.default):
        return ""
    named = (
        action.metavar if isinstance(action.metavar, str) and not action.metavar.startswith("[") else _in_short(hint)
    )
    return f"{named} ..." if action.nargs == "+" else named


def type_of(action: argparse.Action) -> Any:
    """The type of an option's value, as annotated."""
    return getattr(action, "_typehint", None) or action.type or str


def _in_short(hint: Any) -> str:
    parts = [part for part in get_args(hint) if part not in (type(None), Ellipsis)]
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if get_origin(hint) is tuple:
        return "[NUMBER,...]"
    if parts:
        return "|".join(dict.fromkeys(_in_short(part) for part in parts))
    return {int: "NUMBER", float: "NUMBER", bool: "{true,false}"}.get(hint, "TEXT")


def _default(action: argparse.Action, required: bool) -> str:
    value = action.default
    if required and action.option_strings:
        return " (required)"
    if value in (None, "", argparse.SUPPRESS) or value is False or action.nargs == 0:
        return ""
    return f" (default: {_written(value)})"


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
