"""Tables in Markdown that are written row by row, whatever becomes of a row."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ssl_toolkit.checkpoints import Interrupted


@dataclass(frozen=True)
class Settings:
    """How it is measured."""

    device: torch.device
    rounds: int
    steps: int
    deadline: float

    @property
    def cuda(self) -> bool:
        """Whether there is something to compile for and to wait for."""
        return self.device.type == "cuda"

    @property
    def precision(self) -> Any:
        """Lightning's name of it."""
        return "bf16-mixed" if self.cuda else "32-true"


@dataclass
class Section:
    """A heading, the columns of a table, and what writes each of its rows."""

    about: str
    columns: str
    rows: dict[str, Callable[[], str]]


def attempt(section: Section, name: str, settings: Settings) -> str:
    """A row, or why there is none."""
    if time.perf_counter() > settings.deadline:
        return f"| {name} | not begun: the minutes are over |"
    torch._dynamo.reset()  # it gives up on a function that it has compiled eight times, whatever for
    try:
        cells = section.rows[name]()
    except Interrupted:
        raise
    except Exception as error:  # whatever a machine may raise that nobody has seen yet
        said = str(error).strip().partition("\n")[0].replace("|", "/")
        return f"| {name} | {type(error).__name__}: {said} |"
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    return f"| {name} | {cells} |" if section.columns else cells
