"""The training on the page: its curves, and what the doctor says of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.features.sample import Sample
from ssl_toolkit.eval.health.findings import diagnose, examine
from ssl_toolkit.eval.health.measures import MEASURES, measure, numbers
from ssl_toolkit.eval.pictures.curves import SMOOTH_FROM, curve_columns, curve_svg
from ssl_toolkit.eval.report.parts import Part
from ssl_toolkit.logs import read_metrics
from ssl_toolkit.progress import duration
from ssl_toolkit.runs import RunFolder


def training_part(folder: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """How long it took, and a curve a metric."""
    try:
        rows = read_metrics(folder.metrics_file)
        summary = _summary(rows, config) if rows else ""
    except (ValueError, ArithmeticError, LookupError, TypeError, csv.Error) as error:
        raise ToolkitError(f"{folder.metrics_file} is damaged: {error!r}") from error
    columns = [c for c in curve_columns(rows) if c not in MEASURES]
    if not columns:
        raise ToolkitError("no curves: metrics.csv does not hold two rows of numbers yet")
    curves = [curve_svg(rows, c) for c in columns]
    return {"summary": summary, "curves": curves, "smooth": len(rows) >= SMOOTH_FROM}


def doctor_part(folder: RunFolder, sample: Part[Sample]) -> dict[str, Any]:
    """What the doctor says of the features as they are and of the training, and the measures on the way."""
    rows = _rows(folder)
    x = None if sample.content is None else sample.content.features.x
    features = {} if x is None or len(x) < 2 else measure(x)
    looks = numbers(rows)
    solved = {"solved": looks[-1]["solved"]} if looks and "solved" in looks[-1] else {}
    now, while_training = examine(features | solved), diagnose(looks)
    columns = [c for c in curve_columns(rows) if c in MEASURES and c != "above_chance"]
    if not features and not columns:
        raise ToolkitError("nothing was measured")
    return {
        "count": 0 if x is None else len(x),
        "features": [(name.replace("_", " "), value, MEASURES[name]) for name, value in features.items()],
        "findings": [("of the features", each) for each in now]
        + [("while training" if each.step is None else f"from step {each.step}", each) for each in while_training],
        "watched": bool(columns),
        "curves": [curve_svg(rows, c, str(MEASURES[c])) for c in columns],
    }


def _rows(folder: RunFolder) -> list[dict[str, str]]:
    try:
        return read_metrics(folder.metrics_file)
    except (ValueError, csv.Error) as error:
        raise ToolkitError(f"{folder.metrics_file} is damaged: {error!r}") from error


def _summary(rows: Sequence[Mapping[str, str]], config: dict[str, Any]) -> str:
    steps, epoch = int(rows[-1]["step"]), int(rows[-1]["epoch"]) + 1
    summary = f"{steps:,} optimiser steps"
    if seconds := _seconds(rows, config):
        summary += f", {duration(seconds)} of training"
    # A step is logged every so often: the last that is may lie before the end, by less than that.
    interval = steps - int(rows[-2]["step"]) if len(rows) > 1 else steps
    steps_per_epoch = max(math.ceil(int(row["step"]) / (int(row["epoch"]) + 1)) for row in rows)
    if steps + interval < steps_per_epoch * config.get("epochs", 0):
        summary += f"; not finished: epoch {epoch} of {config['epochs']}, pretrain --resume goes on from there"
    return summary


def _seconds(rows: Sequence[Mapping[str, str]], config: dict[str, Any]) -> float:
    """How long the training took, from the speeds it logged; 0 if it logged none."""
    images_per_step = config.get("batch_size", 0) * config.get("accumulate", 1)
    seconds, before = 0.0, 0
    for row in rows:
        if row.get("images_per_second"):
            seconds += (int(row["step"]) - before) * images_per_step / float(row["images_per_second"])
        before = int(row["step"])
    return seconds
