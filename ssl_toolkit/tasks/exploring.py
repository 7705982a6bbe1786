"""A local web page to explore an index."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from typing import Literal

from ssl_toolkit.errors import UsageError
from ssl_toolkit.progress import say
from ssl_toolkit.tasks.settings import AnyChannels, AnyIndex


def explore(
    index: AnyIndex,
    k: int = 25,
    points: int = 5000,
    projection: Literal["pca", "tsne", "umap"] = "pca",
    port: int = 0,
    open: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    data_root: str = "data",
    picture_channels: AnyChannels | None = None,
) -> None:
    """Serve a local web page to explore an index: a map of its images, and the neighbours of any of them.

    The page can be reached from this machine alone. Ctrl-C ends it.

    Args:
        index: Index folder.
        k: Neighbours that are shown.
        points: Images on the map, drawn at random.
        projection: The map of the features: pca, or tsne or umap (extra umap), which keep neighbours together.
        port: Port to listen on; 0 takes a free one.
        open: Open a browser.
        device: Where a dropped image is encoded.
        data_root: Folder of torchvision's data sets.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.

    Raises:
        UsageError: If there is no such index, gradio is not installed, or the port cannot be had.
        ToolkitError: If the index is damaged.

    Examples:
        Until Ctrl-C, on a page that a browser is opened for:

            explore("index/", projection="tsne", open=True)
    """
    for option, value, low, high in (("-k", k, 1, 500), ("--points", points, 1, 50_000), ("--port", port, 0, 65535)):
        if not low <= value <= high:
            raise UsageError(f"{option} is {value}: it must be from {low} to {high}")
    import threading
    import webbrowser

    from ssl_toolkit.data.shown import parse_picture_channels
    from ssl_toolkit.eval.explore.explorer import Explorer
    from ssl_toolkit.eval.explore.serving import free_port, require_gradio, serving
    from ssl_toolkit.tasks.common import open_index, pick_device

    shown = parse_picture_channels(picture_channels)
    free_port(port)  # before an index of a million images is read, not after
    loaded = open_index(index)
    require_gradio()
    explorer = Explorer.of(
        loaded, points=points, projection=projection, device=pick_device(device), root=data_root, picture_channels=shown
    )
    try:
        with serving(explorer, port, k) as address:
            print(address, flush=True)
            say("Ctrl-C ends it")
            if open:
                webbrowser.open(address)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
