"""Search over HTTP."""

from ssl_toolkit.eval.service.api import Limits, api
from ssl_toolkit.eval.service.metrics import Metrics

__all__ = ["Limits", "Metrics", "api"]
