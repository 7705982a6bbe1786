"""Images to features, once: what every score, index and picture is computed from."""

from ssl_toolkit.eval.features.baselines import pixels, random_weights
from ssl_toolkit.eval.features.extraction import (
    Features,
    check_labelled,
    evaluating,
    extract,
    load_features,
    stratified_split,
)
from ssl_toolkit.eval.features.layers import Layers, Tokens
from ssl_toolkit.eval.features.sample import Sample, draw_from

__all__ = [
    "Features",
    "Layers",
    "Sample",
    "Tokens",
    "check_labelled",
    "draw_from",
    "evaluating",
    "extract",
    "load_features",
    "pixels",
    "random_weights",
    "stratified_split",
]
