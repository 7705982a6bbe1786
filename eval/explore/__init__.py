"""A local web page to explore an index."""

from ssl_toolkit.eval.explore.explorer import Explorer, page, require_gradio

__all__ = [
    "Explorer",
    "page",
    "require_gradio",
]
