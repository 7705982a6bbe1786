"""How good are features: votes of neighbours, probes, fine-tuning, and the protocol that runs them alike."""

from ssl_toolkit.eval.scores.attentive import attentive
from ssl_toolkit.eval.scores.classifier import Classifier, load_classifier
from ssl_toolkit.eval.scores.knn import knn, nearest
from ssl_toolkit.eval.scores.linear_classifier import LinearClassifier
from ssl_toolkit.eval.scores.linear_probe import linear_probe
from ssl_toolkit.eval.scores.low_shot import low_shot
from ssl_toolkit.eval.scores.metrics import accuracies, interval
from ssl_toolkit.eval.scores.propagation import carry, propagate
from ssl_toolkit.eval.scores.protocol import Protocol, match_labels, score
from ssl_toolkit.eval.scores.segmentation import Dense, clusters, dense_features, estimate_depth, segment
from ssl_toolkit.eval.scores.sgd_probe import sgd_probe
from ssl_toolkit.eval.scores.svm import svm
from ssl_toolkit.eval.scores.sweep import sweep

__all__ = [
    "Classifier",
    "Dense",
    "LinearClassifier",
    "Protocol",
    "accuracies",
    "attentive",
    "carry",
    "clusters",
    "dense_features",
    "estimate_depth",
    "interval",
    "knn",
    "linear_probe",
    "load_classifier",
    "low_shot",
    "match_labels",
    "nearest",
    "propagate",
    "score",
    "segment",
    "sgd_probe",
    "svm",
    "sweep",
]
