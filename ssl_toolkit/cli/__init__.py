"""The command line: one file a command, each around one importable, typed function.

Nothing heavy is imported here: ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from ssl_toolkit import __version__
from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name

TOPICS = {
    "Train": {
        "recommend": "images -> the method, encoder, sizes and epochs that fit, and the command to run",
        "check": "options of pretrain -> would it train, how fast, at which learning rate",
        "pretrain": "images -> a run folder with an encoder",
        "sweep": "options of pretrain with several values each -> a run for each combination, compared",
        "methods": "the methods that are installed",
    },
    "Score": {
        "evaluate": "encoder + labelled images -> kNN and linear probe, beside random weights and pixels",
        "compare": "scored runs -> one table and chart",
        "finetune": "encoder + labels, all or a few -> a classifier",
        "doctor": "run folder -> has it collapsed, and why; no labels needed",
        "segment": "encoder + images with masks or depths -> linear segmentation, depth",
        "propagate": "encoder + clip -> colours and a mask of its first frame, carried through it",
    },
    "Search": {
        "embed": "encoder + images -> features on disk",
        "index": "encoder + images -> a search index",
        "merge": "search indexes -> one",
        "search": "search index + images or vectors -> their nearest neighbours",
        "serve": "search index -> an HTTP API: an image or items in, their nearest neighbours out",
        "duplicates": "search index -> groups of images that are copies of one another",
        "outliers": "search index -> images that are far from all others",
        "retrieval": "search index + labels or a ground truth -> mean average precision, recall",
    },
    "Look": {
        "report": "run folder -> one self-contained HTML page",
        "plot": "encoder + images -> a picture: map, neighbours, filters, maps, explanations, ...",
        "views": "images + recipe of augmentations -> a picture of what a method would see",
        "explore": "search index -> a local web page: map, neighbours, drop an image",
    },
    "More": {
        "pack": "images of any source -> shards: tar files, for large sets and object stores",
        "export": "encoder -> a file for timm, torch, ONNX or the Hugging Face hub",
        "demo": "all of the above, offline, in minutes",
    },
}
COMMANDS = {name: about for commands in TOPICS.values() for name, about in commands.items()}


# Of a disk that is full, over its quota, or read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def usage() -> str:
    """The text of ``ssl-toolkit --help``."""
    width = max(map(len, COMMANDS))
    lines: list[str] = []
    for topic, commands in TOPICS.items():
        lines += ["", f"{topic}:", *(f"  {name:<{width}}  {about}" for name, about in commands.items())]
    return "\n".join(
        [
            "usage: ssl-toolkit COMMAND [options]",
            "",
            "Pretrain image encoders without labels, score them honestly, search images with them.",
            *lines,
            "",
            "ssl-toolkit COMMAND --help lists the options of a command, ssl-toolkit --version the version.",
        ]
    )


def dispatch(argv: Sequence[str]) -> None:
    """Run one command.

    Args:
        argv: Command and options, without the program's name.

    Raises:
        UsageError: If what was asked for cannot be done as asked.
        ToolkitError: If it failed while running.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(f"ssl-toolkit {__version__}")
        return
    if argv[0] not in COMMANDS:
        raise unknown_name("command", argv[0], COMMANDS)
    from importlib import import_module

    import_module(f"ssl_toolkit.cli.{argv[0]}").main(list(argv[1:]))


def main() -> NoReturn:
    """Entry point of ``ssl-toolkit``: exits 0 when done, 1 when it failed while running, 2 on wrong usage."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        dispatch(sys.argv[1:])
        sys.stdout.flush()
    except ToolkitError as error:
        signum = getattr(error, "signum", 0)  # a run that a signal asked to stop
        if signum:
            from ssl_toolkit.runs import launched_rank

            if launched_rank():
                sys.exit(0)  # the first process says it for all, and is not to be killed for our leaving
        _complain(f"{'' if signum else 'error: '}{error}")
        sys.exit(128 + signum if signum else 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("ssl-toolkit: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has closed it (`| head`): nothing is wrong, and nothing more can be said.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" at {error.filename}" if error.filename else ""
        _complain(f"error: {error.strerror}{where}: make room, or name another place")
        sys.exit(1)
    sys.exit(0)


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone: it is what a SIGHUP says
        print(f"ssl-toolkit: {text}", file=sys.stderr, flush=True)


def _on_sigterm(signum: int, frame: FrameType | None) -> Any:
    sys.exit(128 + signum)
