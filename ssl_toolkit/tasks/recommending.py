"""What to train with on these images: a look at some of them, and the rules."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import duration
from ssl_toolkit.tasks.settings import AnyData
from ssl_toolkit.tasks.tables import Found, Table

if TYPE_CHECKING:
    from ssl_toolkit.data.image_set import ImageSet
    from ssl_toolkit.tasks.rules import Choice


class Recommendation(Found, dict[str, Any]):
    """What `recommend` found."""

    def table(self) -> Table:
        """A row a choice; below, what was seen, how long it takes, and the command."""
        rows = [[row["option"], str(row["value"]), f"{row['reason']} ({row['source']})"] for row in self["choices"]]
        if self["seconds"] is not None:
            about = f"{self['epochs']} epochs of {self['facts']['images']:,} images"
            rows.append(["time", duration(self["seconds"]), about])
        width = max(len(row[1]) for row in rows) + 2
        notes = [f"{note['reason']}: {note['value']} ({note['source']})" for note in self["notes"]]
        return Table(
            ["choice", "", "why (source)"], rows, ["<20", f"<{width}", ""], [self["seen"], *notes, self["command"]]
        )


def recommend(
    data: AnyData,
    minutes: float = 30.0,
    gpu: str | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    data_root: str = "data",
    progress: bool = True,
) -> Recommendation:
    """Look at images and the machine, and say what to pretrain with: the reasons, the time, the command to run.

    Args:
        data: Images or clips, as `pretrain` takes them; up to 1,000 of them are looked at.
        minutes: That the training may take, above 0.
        gpu: Name of a GPU of the machine that is planned, such as H100, or cpu for one without; if not given, what
            this machine has.
        labels: Classes of a folder: its subfolders (folder), or these if they look it (auto); none drops all labels.
        data_root: Folder of torchvision's data sets.
        progress: Show a progress bar.

    Returns:
        ``choices`` and ``notes``: lists of option, value, reason, source; ``command``; ``seconds``, None where it is
        not known; ``epochs``; ``seen``: what the images are, in a line; ``facts``: the same as values. It
        prints as a table.

    Raises:
        UsageError: If there are no such images, or `minutes` is no time.
        ToolkitError: If none of the images can be read.

    Examples:
        >>> found = recommend("shapes:train:64", minutes=20, gpu="cpu", progress=False)
        >>> found["command"].split()[:6]
        ['ssl-toolkit', 'pretrain', '--data', 'shapes:train:64', '--method', 'simclr']
    """
    if not 0 < minutes <= 10**6:
        raise UsageError(f"--minutes is {minutes}: it must be above 0")
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.methods import method_class
    from ssl_toolkit.runs import available_cores
    from ssl_toolkit.tasks.common import natural_size
    from ssl_toolkit.tasks.defaults import gpu_name, view_defaults
    from ssl_toolkit.tasks.looking import look
    from ssl_toolkit.tasks.rules import Case, choose, decide, notes

    images = open_images(data, root=data_root, labels=labels)
    place = gpu_name("auto") if gpu is None else None if gpu.lower() == "cpu" else gpu.lower()
    side = natural_size(images)
    case = Case(
        len(images), side, available_cores(), place, minutes, frames=images.frames,
        channels=images.channels // images.frames, **asdict(look(images.few(), side, progress)),
    )  # fmt: skip
    method = decide("method", case)
    assert method is not None  # the last rule is for all cases
    found = method_class(method.value)
    case = replace(case, default_encoder=found.default_encoder, chosen={"method": method.value})
    case, choices = choose(case, view_defaults(found))
    epochs, each = case.chosen["epochs"], case.seconds_per_epoch()
    facts = {name: value for name, value in asdict(case).items() if name != "chosen"}
    return Recommendation(
        choices=[asdict(choice) for choice in (method, *choices)],
        notes=[asdict(note) for note in notes(case)],
        command=command_of(images.word, [method, *choices], labels=labels, data_root=data_root),
        seconds=None if each is None else epochs * each,
        epochs=epochs,
        seen=_seen(images, facts),
        facts=facts,
    )


def command_of(word: str, choices: "Sequence[Choice]", **read: str) -> str:
    """The command that trains so, in a run folder that is not there yet.

    Args:
        word: The images.
        choices: The first is the method.
        read: How the images are read, by the name of the option, where that is not as usual.
    """
    from ssl_toolkit.tasks.defaults import as_option, as_options

    name = "".join(letter if letter.isalnum() else "-" for letter in Path(word).name).strip("-") or "images"
    out = base = f"runs/{name}-{choices[0].value}"
    number = 1
    while os.path.exists(out):
        number += 1
        out = f"{base}-{number}"
    given = {"data": word} | {option: value for option, value in read.items() if value not in ("auto", "data")}
    words = " ".join(f"--{as_option(option)} {shlex.quote(value)}" for option, value in given.items())
    return f"ssl-toolkit pretrain {words} {as_options(choices)} --out {out}"


def _seen(images: "ImageSet", facts: dict[str, Any]) -> str:
    """What the images and the machine are, in a line."""
    from ssl_toolkit.data.cache import fits_in_memory

    kind = "images" if images.frames == 1 else f"clips of {images.frames} frames"
    classes = f"{len(images.classes)} classes, which evaluate can use" if images.classes else "no classes"
    kept = "all fit in memory" if fits_in_memory(images, facts["side"], "auto") else "read anew in each epoch"
    place = facts["gpu"] or f"{facts['cores']} cores, no GPU"
    return (
        f"seen: {len(images):,} {kind}, {facts['channels']} channels, {facts['side']} px (short side, 224 at most), "
        f"{classes}; {facts['grey']:.0%} without colours, {facts['copies']:.0%} near copies of the one before, detail "
        f"in {facts['detail']:.0%} of the side; {kept}; {place}"
    )
