"""What the parser finds wrong, in our words: the option, what was given, and what is expected."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable

from ssl_toolkit.cli.help import type_of
from ssl_toolkit.tasks.settings import in_words


def complaint(message: str, actions: Iterable[argparse.Action], spelled: Callable[[str], str]) -> str:
    """A message of jsonargparse or argparse in a line; others as they are, without empty lines.

    Args:
        message: The message.
        actions: The options of the command.
        spelled: From the name of an option to how users write it.
    """
    text = " ".join(message.split())
    if found := re.match(r'Parser key "([\w.]+)": (.*)', text):
        key, said = found.groups()
        hint = next((type_of(action) for action in actions if action.dest == key), None)
        given = re.search(r".*(?:Given value|Got value): (.*)$", said)
        if hint is not None and given:
            return f"{spelled(key)} is {given[1]}: it must be {in_words(hint).removesuffix(' or None')}"
    if found := re.match(r"the following arguments are required: (.*)", text):
        names = [spelled(name.removeprefix("--")) for name in found[1].split(", ")]
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing"
    if found := re.match(r"unrecognized arguments: (.*)", text):
        return f"too much is given: {found[1]}; put quotes around what holds spaces"
    if found := re.match(r"argument (?:-\w/)?(-[\w.-]+): expected .*argument", text):
        return f"{found[1].replace('_', '-')} needs a value behind it"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n  ".join(lines[:8])
