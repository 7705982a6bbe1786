"""How an index and what it found look in a notebook: HTML that holds its pictures and asks nobody for anything."""

from __future__ import annotations

import base64
import html
import json
import os
from typing import TYPE_CHECKING, Any

from ssl_toolkit.data.items import open_item
from ssl_toolkit.encoders import encoder_metadata
from ssl_toolkit.errors import ToolkitError
from ssl_toolkit.eval.pictures.pixels import tile
from ssl_toolkit.eval.pictures.png import picture_png
from ssl_toolkit.eval.pictures.words import shown

if TYPE_CHECKING:
    from ssl_toolkit.eval.search.hits import Hits
    from ssl_toolkit.eval.search.index import EmbeddingIndex

SIDE = 72
"""Side of a picture, pixels."""

MOST = (5, 10)
"""Queries, and hits of each, that are shown."""


def index_table(index: EmbeddingIndex) -> str:
    """What an index is, a line a fact."""
    try:
        name = json.loads(encoder_metadata(index.encoder_file)["config"])["name"]
    except ToolkitError:  # the file is gone: its hash is left
        name = ""
    labelled = 0 if index.labels is None else int((index.labels >= 0).sum())
    classes = "" if index.classes is None else f" in {len(index.classes)} classes"
    facts = {
        "images": f"{len(index):,}",
        "data": index.data,
        "labels": f"{labelled:,}{classes}" if labelled else "none",
        "dimension": index.dimension,
        "metric": index.metric,
        "neighbours": index.how,
        "encoder": f"{name} {index.encoder_sha256[:12]}".strip(),
    }
    rows = [f"<tr><th>{what}</th><td>{_escaped(value)}</td></tr>" for what, value in facts.items() if value]
    return f"<table>{''.join(rows)}</table>"


def hits_table(hits: Hits) -> str:
    """A line a query, its hits as pictures with score and label, or as paths where the images cannot be read."""
    queries, most = MOST
    lines = ["".join(map(_cell, found[:most])) for found in hits.rows()[:queries]]
    table = "".join(f"<tr><th>{number}</th>{line}</tr>" for number, line in enumerate(lines, start=1))
    left_out = [
        f"{count - limit} more {what}"
        for count, limit, what in zip(hits.score.shape, MOST, ("queries", "hits each"), strict=True)
        if count > limit
    ]
    about = ", ".join([f"nearest first, {hits.metric} below each", *left_out])
    return f"<table>{table}</table><p>{about}</p>"


def _cell(hit: dict[str, Any]) -> str:
    """A hit as a cell: its picture, or its path where there is none; below it the score and the label."""
    path, label = _escaped(hit["path"]), "" if hit["label"] is None else _escaped(hit["label"])
    png = _picture(hit["path"])
    what = f'<img src="data:image/png;base64,{png}" title="{path}" alt="{path}">' if png else path
    return f"<td>{what}<br>{hit['score']:.3f} {label}</td>"


def _picture(path: str) -> str | None:
    """A PNG in base64 of an image that lies on this machine; None where it cannot be read any more.

    Items of a named set are not asked for: to look at a result must never start a download.
    """
    place = path.rpartition("#")[0]  # "images.npy", "wds:/data/a.tar"
    if not any(map(os.path.lexists, (path, place, place.partition(":")[2]))) and not path.startswith("shapes:"):
        return None
    try:
        return base64.b64encode(picture_png(tile(open_item(path, None, size=SIDE), SIDE))).decode()
    except (ToolkitError, OSError):
        return None


def _escaped(text: object) -> str:
    return html.escape(shown(text))
