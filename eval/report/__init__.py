"""A run as one page, and runs beside each other."""

from ssl_toolkit.eval.report.compare import compare_runs, read_results
from ssl_toolkit.eval.report.page import make_report

__all__ = [
    "compare_runs",
    "make_report",
    "read_results",
]
