"""The features of all parts of a set of images as one folder; rows pass from disk to disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssl_toolkit.errors import ToolkitError, UsageError
from ssl_toolkit.eval.features.extraction import load_features
from ssl_toolkit.eval.features.growing import Growing
from ssl_toolkit.files import sha256_of

_COPIED = 1 << 14  # rows at once
_SAID = {"encoder_sha256", "data", "images", "first", "of", "sha256"}  # of a part


def read_about(folder: Path) -> dict[str, Any]:
    """What ``features.json`` says of the features in a folder.

    Raises:
        UsageError: There is none.
        ToolkitError: It cannot be read.
    """
    if not (folder / "features.json").is_file():
        raise UsageError(f"{folder} holds no features that are whole (no features.json): write them with `embed`")
    try:
        found = dict(json.loads((folder / "features.json").read_text()))
    except (OSError, ValueError, TypeError):
        found = {}
    if not found.keys() >= _SAID:
        raise ToolkitError(f"the features in {folder} are damaged (features.json): write them again")
    return found


def join_features(folders: Sequence[Path], out: Path) -> int:
    """Write the features of several folders, checked against their hashes, one behind the other.

    Args:
        folders: Of one encoder; of parts of one set of images, all of them, in order.
        out: The folder to make.

    Returns:
        How many there are.

    Raises:
        UsageError: They are of several encoders or sets of images, or a part is missing.
        ToolkitError: One of them is damaged.
    """
    abouts = [_verified(folder) for folder in folders]
    whole = abouts[0]
    position = 0
    for folder, about in zip(folders, abouts, strict=True):
        for what in ("encoder_sha256", "data", "of"):
            if about[what] != whole[what]:
                raise UsageError(f"{folder} has {what} {about[what]}, {folders[0]} has {whole[what]}: they must agree")
        if about["first"] != position:
            raise UsageError(f"{folder} begins at image {about['first']}, the part before it ends at {position}")
        position += about["images"]
    if position != whole["of"]:
        raise UsageError(f"the parts end at image {position} of {whole['of']}: one is missing")
    with Growing(out) as growing:
        for folder in folders:
            part = load_features(folder)
            for start in range(0, len(part), _COPIED):
                rows = slice(start, start + _COPIED)
                growing.append(part.x[rows], part.label[rows], part.index[rows])
        growing.finish(_names(folders), {**whole, "images": position, "first": 0, "state": None})
        return growing.count


def _names(folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        with (folder / "paths.jsonl").open() as lines:
            yield from map(json.loads, lines)


def _verified(folder: Path) -> dict[str, Any]:
    """What is said of the features in a folder, whose files are as they were written."""
    about = read_about(folder)
    for name, digest in about["sha256"].items():
        if not (folder / name).is_file():
            raise ToolkitError(f"the features in {folder} are damaged: {name} is missing; write them again")
        if sha256_of(folder / name) != digest:
            raise ToolkitError(
                f"the features in {folder} are damaged: {name}: its content does not match its hash; write them again"
            )
    return about
