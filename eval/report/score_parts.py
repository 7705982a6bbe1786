"""The scores on the page: a verdict, a table, bars and what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ssl_toolkit.eval.health.quality import QUALITIES
from ssl_toolkit.eval.pictures.charts import confusion_figure, score_chart
from ssl_toolkit.eval.pictures.words import ENCODERS, score_title
from ssl_toolkit.eval.report.compare import HOW_TO_READ, advice, not_above, sets_of
from ssl_toolkit.eval.report.parts import chart_of
from ssl_toolkit.eval.report.run_parts import Trained
from ssl_toolkit.eval.scores.metrics import in_percent


def verdict(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One sentence: how often the trained encoder names the class, and how many points that is beyond the baselines.

    Args:
        results: ``{encoder: {protocol: {"top1": accuracy in [0, 1]}}}`` with at least the encoder ``trained``.
    """
    protocol = "knn" if "knn" in results["trained"] else sorted(results["trained"])[0]
    trained = _percent(results["trained"][protocol])
    gains = []
    for name in ("pixels", "random"):
        if protocol in results.get(name, {}):
            gain = round(trained - _percent(results[name][protocol]), 1)
            points = f"{abs(gain):.1f} points {'more' if gain > 0 else 'fewer'} than" if gain else "as many as"
            gains.append(f"{points} {ENCODERS[name]}")
    return f"{score_title(protocol)} on the trained features names {trained:.1f} % of the test images right" + (
        f": {' and '.join(gains)}." if gains else "."
    )


def _percent(score: Mapping[str, Any]) -> float:
    return 100 * float(score["top1"])


def scores_part(results: dict[str, Any], trained: Trained | None, run: str) -> dict[str, Any]:
    """What each labelled set says, and whether it was said of this encoder."""
    sha256 = results["encoder"].get("sha256") if isinstance(results.get("encoder"), dict) else None
    sets = [{"name": name, **_set_scores(labelled)} for name, labelled in sets_of(results).items()]
    return {
        "sets": sets,
        "verdict": (f"{sets[0]['name']}: " if sets[0]["name"] else "") + sets[0]["verdict"],
        "how": HOW_TO_READ,
        "advice": advice(not_above(results), run),
        "stale": trained is not None and sha256 is not None and sha256 != trained.sha256,
    }


def _set_scores(labelled: dict[str, Any]) -> dict[str, Any]:
    scores, protocol = labelled["results"], labelled["protocol"]
    columns = list(dict.fromkeys(name for each in scores.values() for name in each))
    classes = protocol.get("classes") or 0
    chance = 1 / classes if classes else None
    return {
        "verdict": verdict(scores),
        "titles": [score_title(name) for name in columns],
        "rows": [
            (ENCODERS.get(name, name), [in_percent(each[c]) if c in each else "" for c in columns])
            for name, each in scores.items()
        ],
        "ece": [
            f"{100 * scores['trained'][c]['ece']:.1f}" if "ece" in scores["trained"].get(c, {}) else "" for c in columns
        ],
        "measures": _measures(labelled.get("measures", {})),
        "spoilt": _spoilt(scores["trained"].get("corruptions")),
        "crossed": _crossed(scores.get("pixels", {})),
        "charts": [chart_of(partial(score_chart, scores, chance, [c]), f"bars: {c}") for c in columns],
        "confusion": _confusion(scores["trained"], protocol.get("class_names")),
        "train": protocol["train"],
        "test": protocol["test"],
        "left_out": protocol.get("left_out", False),
        "classes": classes,
    }


def _spoilt(found: Mapping[str, Any] | None) -> str:
    """The accuracies on corrupted images by corruption, best first, in a sentence; empty where there are none."""
    if found is None:
        return ""
    kinds = sorted(found["by_corruption"].items(), key=lambda pair: -pair[1])
    listed = ", ".join(f"{name.replace('_', ' ')} {100 * top1:.1f}" for name, top1 in kinds)
    return f"Corrupted, means over five strengths of what is {100 * found['clean']:.1f} % on clean images: {listed}."


def _measures(measures: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """What needs no labels: the encoders, and a row a measure; None where there are none."""
    rows = [
        (each, [f"{found[key]:.4g}" if key in found else "" for found in measures.values()])
        for key, each in QUALITIES.items()
        if any(key in found for found in measures.values())
    ]
    return {"encoders": [ENCODERS.get(name, name) for name in measures], "rows": rows} if rows else None


def _crossed(pixels: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """The accuracies of the linear probe and of kNN on raw pixels, where the probe's is the lower one."""
    if not {"knn", "linear"} <= set(pixels) or pixels["linear"]["top1"] >= pixels["knn"]["top1"]:
        return None
    return f"{_percent(pixels['linear']):.1f}", f"{_percent(pixels['knn']):.1f}"


def _confusion(scores: dict[str, Any], classes: list[str] | None) -> dict[str, Any] | None:
    """What the trained encoder's linear probe, or else its first protocol, takes for what."""
    name = "linear" if "linear" in scores else next(iter(scores))
    counts = scores[name].get("confusion")
    if counts is None or classes is None or len(classes) != len(counts):
        return None
    title = score_title(name)
    draw = partial(confusion_figure, np.array(counts), classes)
    return {"title": title, "chart": chart_of(draw, f"matrix: classes by the {title}'s answers")}
