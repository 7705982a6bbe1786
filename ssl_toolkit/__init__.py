"""Pretrain image encoders without labels, score them honestly, search images with them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ssl_toolkit.cli.finetune import finetune
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.encoders import Encoder, load_encoder
    from ssl_toolkit.eval.scores.finetune import load_classifier
    from ssl_toolkit.eval.search.estimator import ImageEmbedder
    from ssl_toolkit.eval.search.index import EmbeddingIndex
    from ssl_toolkit.method import Method
    from ssl_toolkit.tasks.evaluation import evaluate
    from ssl_toolkit.tasks.exporting import export
    from ssl_toolkit.tasks.pretraining import pretrain
    from ssl_toolkit.tasks.run import Run

__all__ = [
    "EmbeddingIndex",
    "Encoder",
    "ImageEmbedder",
    "Method",
    "Run",
    "evaluate",
    "export",
    "finetune",
    "load_classifier",
    "load_encoder",
    "open_images",
    "pretrain",
]

_HOMES = {
    "EmbeddingIndex": "ssl_toolkit.eval.search.index",
    "Encoder": "ssl_toolkit.encoders",
    "ImageEmbedder": "ssl_toolkit.eval.search.estimator",
    "Method": "ssl_toolkit.method",
    "Run": "ssl_toolkit.tasks.run",
    "evaluate": "ssl_toolkit.tasks.evaluation",
    "export": "ssl_toolkit.tasks.exporting",
    "finetune": "ssl_toolkit.cli.finetune",
    "load_classifier": "ssl_toolkit.eval.scores.finetune",
    "load_encoder": "ssl_toolkit.encoders",
    "open_images": "ssl_toolkit.data.sources",
    "pretrain": "ssl_toolkit.tasks.pretraining",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `ssl-toolkit --help` must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'ssl_toolkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
