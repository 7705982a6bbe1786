"""Pretrain image encoders without labels, score them honestly, search images with them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.encoders import Encoder, load_encoder
    from ssl_toolkit.eval.scores.classifier import load_classifier
    from ssl_toolkit.eval.search.estimator import ImageEmbedder
    from ssl_toolkit.eval.search.index import EmbeddingIndex
    from ssl_toolkit.method import Method
    from ssl_toolkit.tasks.checking import check
    from ssl_toolkit.tasks.comparing import compare
    from ssl_toolkit.tasks.curating import duplicates, outliers
    from ssl_toolkit.tasks.diagnosis import doctor
    from ssl_toolkit.tasks.embedding import embed
    from ssl_toolkit.tasks.evaluation import evaluate
    from ssl_toolkit.tasks.exploring import explore
    from ssl_toolkit.tasks.exporting import export
    from ssl_toolkit.tasks.finetuning import finetune
    from ssl_toolkit.tasks.indexing import index, merge
    from ssl_toolkit.tasks.packing import pack
    from ssl_toolkit.tasks.plotting import plot
    from ssl_toolkit.tasks.pretraining import pretrain
    from ssl_toolkit.tasks.propagating import propagate
    from ssl_toolkit.tasks.recommending import recommend
    from ssl_toolkit.tasks.reporting import report
    from ssl_toolkit.tasks.retrieving import retrieval
    from ssl_toolkit.tasks.run import Run, Runs
    from ssl_toolkit.tasks.searching import search
    from ssl_toolkit.tasks.segmenting import segment
    from ssl_toolkit.tasks.serving import serve
    from ssl_toolkit.tasks.settings import Weights
    from ssl_toolkit.tasks.sweeping import sweep
    from ssl_toolkit.tasks.viewing import draw_views

__all__ = [
    "EmbeddingIndex",
    "Encoder",
    "ImageEmbedder",
    "Method",
    "Run",
    "Runs",
    "Weights",
    "check",
    "compare",
    "doctor",
    "draw_views",
    "duplicates",
    "embed",
    "evaluate",
    "explore",
    "export",
    "finetune",
    "index",
    "load_classifier",
    "load_encoder",
    "merge",
    "open_images",
    "outliers",
    "pack",
    "plot",
    "pretrain",
    "propagate",
    "recommend",
    "report",
    "retrieval",
    "search",
    "segment",
    "serve",
    "sweep",
]

_HOMES = {
    "EmbeddingIndex": "ssl_toolkit.eval.search.index",
    "Encoder": "ssl_toolkit.encoders",
    "ImageEmbedder": "ssl_toolkit.eval.search.estimator",
    "Method": "ssl_toolkit.method",
    "Run": "ssl_toolkit.tasks.run",
    "Runs": "ssl_toolkit.tasks.run",
    "Weights": "ssl_toolkit.tasks.settings",
    "check": "ssl_toolkit.tasks.checking",
    "compare": "ssl_toolkit.tasks.comparing",
    "doctor": "ssl_toolkit.tasks.diagnosis",
    "draw_views": "ssl_toolkit.tasks.viewing",
    "duplicates": "ssl_toolkit.tasks.curating",
    "embed": "ssl_toolkit.tasks.embedding",
    "evaluate": "ssl_toolkit.tasks.evaluation",
    "export": "ssl_toolkit.tasks.exporting",
    "explore": "ssl_toolkit.tasks.exploring",
    "finetune": "ssl_toolkit.tasks.finetuning",
    "index": "ssl_toolkit.tasks.indexing",
    "load_classifier": "ssl_toolkit.eval.scores.classifier",
    "load_encoder": "ssl_toolkit.encoders",
    "merge": "ssl_toolkit.tasks.indexing",
    "open_images": "ssl_toolkit.data.sources",
    "outliers": "ssl_toolkit.tasks.curating",
    "pack": "ssl_toolkit.tasks.packing",
    "plot": "ssl_toolkit.tasks.plotting",
    "pretrain": "ssl_toolkit.tasks.pretraining",
    "propagate": "ssl_toolkit.tasks.propagating",
    "recommend": "ssl_toolkit.tasks.recommending",
    "report": "ssl_toolkit.tasks.reporting",
    "retrieval": "ssl_toolkit.tasks.retrieving",
    "search": "ssl_toolkit.tasks.searching",
    "segment": "ssl_toolkit.tasks.segmenting",
    "serve": "ssl_toolkit.tasks.serving",
    "sweep": "ssl_toolkit.tasks.sweeping",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `ssl-toolkit --help` must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'ssl_toolkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
