"""Will it train, does it train, has it collapsed: checks before, a doctor during and after, figures without labels."""

from ssl_toolkit.eval.health.callbacks import OnlineKNN
from ssl_toolkit.eval.health.check import first_loss, lr_range, overfit
from ssl_toolkit.eval.health.collapse import alignment, effective_rank, embedding_std, uniformity
from ssl_toolkit.eval.health.doctor import CollapseDoctor
from ssl_toolkit.eval.health.findings import Finding, diagnose, examine
from ssl_toolkit.eval.health.measures import examine_method

__all__ = [
    "CollapseDoctor",
    "Finding",
    "OnlineKNN",
    "alignment",
    "diagnose",
    "effective_rank",
    "embedding_std",
    "examine",
    "examine_method",
    "first_loss",
    "lr_range",
    "overfit",
    "uniformity",
]
