"""A local web page to explore an index."""

from ssl_toolkit.eval.explore.explorer import Explorer
from ssl_toolkit.eval.explore.serving import page, require_gradio, serving

__all__ = [
    "Explorer",
    "page",
    "require_gradio",
    "serving",
]
