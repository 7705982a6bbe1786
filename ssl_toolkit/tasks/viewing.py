"""A picture of what a recipe makes of images."""

# No `from __future__ import annotations` here: to resolve such annotations, the command line would import torch.
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssl_toolkit.errors import ToolkitError, UsageError, unknown_name
from ssl_toolkit.tasks.settings import AnyChannels, AnyData, AnyPath, AnyRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssl_toolkit.augment import Views


def recipe_named(name: str) -> "Callable[..., Views]":
    """A recipe of `ssl_toolkit.augment`, by its name without ``_views``.

    Raises:
        UsageError: If there is none.
    """
    from ssl_toolkit import augment

    known = [each.removesuffix("_views") for each in augment.__all__ if each.endswith("_views")]
    if name not in known:
        raise unknown_name("recipe", name, known)
    found: Callable[..., Views] = getattr(augment, f"{name}_views")
    return found


def draw_views(
    data: AnyData,
    recipe: str,
    out: AnyPath = "views.png",
    size: int | None = None,
    load_size: int | None = None,
    images: int = 8,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    channels: int | None = None,
    range: AnyRange | None = None,
    picture_channels: AnyChannels | None = None,
    labels: Literal["auto", "folder", "none"] = "auto",
    data_root: str = "data",
) -> Path:
    """Draw images and the views that a recipe makes of them.

    In Python, `data` may be whatever `open_images` takes.

    Args:
        data: Images: a folder, a .csv manifest, an .npz or .npy array, or a word like cifar10:train, wds:shards/
            or hf:NAME:train.
        recipe: Name of a recipe of ssl_toolkit.augment without _views, such as simclr, byol, multicrop or pretext.
        out: The PNG file.
        size: Side of a view, in pixels; if not given, what the images have, at most 224.
        load_size: Short side to which images are resized when read; if not given, size under 64 px, 8/7 of it above.
        images: How many images, drawn at random.
        seed: Decides which images, and the draws.
        options: Options of the recipe.
        channels: Channels of the images; if not given, 3 for image files, the array's own for arrays.
        range: Values of images deeper than 8 bits that become 0 and 1, such as 0,4095; auto measures them.
        picture_channels: Channels that pictures show as red, green and blue, or one as grey, counted from 1, such as
            4,3,2; if not given, the first three, or the first.
        labels: How a folder is read; labels are not shown.
        data_root: Folder of torchvision's data sets.

    Returns:
        The picture.

    Raises:
        UsageError: If there is no such recipe, no such images, or the picture cannot be written.
        ToolkitError: If none of the images can be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     draw_views("shapes:train:32", "simclr", out=f"{folder}/views.png", images=2).name
        'views.png'
    """
    if not 1 <= images <= 64:
        raise UsageError(f"--images is {images}: it must be from 1 to 64")
    from ssl_toolkit.data.image_set import read_some
    from ssl_toolkit.data.shown import Look, parse_picture_channels
    from ssl_toolkit.data.sources import open_images
    from ssl_toolkit.eval.pictures.png import write_figure
    from ssl_toolkit.eval.pictures.views import views_figure, views_of
    from ssl_toolkit.randomness import derive_seed, numpy_generator
    from ssl_toolkit.tasks.common import default_load_size, natural_size

    made_by, shown = recipe_named(recipe), parse_picture_channels(picture_channels)
    source = open_images(data, root=data_root, labels=labels, channels=channels, range=range).few()
    size = size or natural_size(source)
    made = made_by(size, channels=source.channels, **(options or {}))
    order = numpy_generator(seed, "views").permutation(len(source))
    read = read_some(source, order, images, load_size or default_load_size(size))
    if not read:
        raise ToolkitError(f"none of the images of '{source.word}' can be read")
    look, views = Look.of(read, shown), views_of(read, made, derive_seed(seed, "views"))
    figure = views_figure([look(image) for image in read], [[look(view) for view in each] for each in views])
    write_figure(figure, out, "--out")
    return Path(out)
