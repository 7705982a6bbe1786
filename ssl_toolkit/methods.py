"""The methods that are installed, by their short names: ours and any other package's, from the same entry points."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.objects import describe, import_path, is_object, missing_object
from ssl_toolkit.optim import OptimizerConfig

if TYPE_CHECKING:
    from ssl_toolkit.augment import Views
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.method import Method

GROUP = "ssl_toolkit.methods"


def installed_methods() -> dict[str, str]:
    """Short name to ``module:Class`` of every method that a package registers in the group ``ssl_toolkit.methods``."""
    return {point.name: point.value for point in sorted(entry_points(group=GROUP))}


def method_class(name: str | type[Method] | Method) -> type[Method]:
    """The class behind a short name or a class path.

    Args:
        name: ``simclr``, or ``my_package.my_module.MyMethod``; or the class itself, or an instance of it.

    Raises:
        UsageError: If there is no such method, or it is no `Method`.
    """
    from ssl_toolkit.method import Method

    if isinstance(name, Method):
        return type(name)
    if not isinstance(name, str):
        if isinstance(name, type) and issubclass(name, Method):
            return name
        raise UsageError(f"method is {describe(name)}: give a name, or a class or instance of ssl_toolkit.Method")
    if is_object(name):
        raise missing_object("method", name)
    methods = installed_methods()
    if name not in methods and "." not in name:
        raise unknown_name("method", name, methods)
    if name not in methods and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a method under work lies; a console script does not look there
    module, _, attribute = methods.get(name, ":".join(name.rsplit(".", 1))).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"--method {name} cannot be imported: {error}; install its package, or add its folder to PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"--method {name} is no ssl_toolkit.method.Method")
    return found


def method_name(name: str | type[Method] | Method) -> str:
    """What a run calls its method: a class by its short name or path, what cannot be imported by its description."""
    if isinstance(name, str):
        return name
    if not isinstance(name, type) or "<" in name.__qualname__ or name.__module__ == "__main__":
        return describe(name)
    short = {path: short for short, path in installed_methods().items()}
    return short.get(f"{name.__module__}:{name.__qualname__}", import_path(name))


def configured_views(config: dict[str, Any], channels: int) -> Views:
    """The views that a configuration of a run says.

    Args:
        config: As ``config.yaml`` has it, or with objects in their places.
        channels: Of an image, or of all frames of a clip together.

    Raises:
        TypeError: If the method's recipe of views has no such option.
        UsageError: If the views were an object.
    """
    from ssl_toolkit.augment import OwnViews, Views

    asked, found = config["views"], method_class(config["method"]["name"])
    if isinstance(asked, Views):
        return asked
    if is_object(asked):
        raise missing_object("views", asked)
    if isinstance(asked, Mapping):
        return found.default_views(channels=channels, **asked)
    count = len(found.default_views(config["image_size"], channels=channels))
    return OwnViews(asked, count, config["load_size"])


def configured_method(config: dict[str, Any], encoder: Encoder, channels: int) -> Method:
    """The method that a configuration of a run says, around `encoder`; see `configured_views`."""
    options = {name: value for name, value in config["method"].items() if name != "name"}
    found, asked = method_class(config["method"]["name"]), config["optimizer"]
    optimizer = OptimizerConfig(**asked) if isinstance(asked, Mapping) else None  # a function: set by who trains
    return found(encoder, configured_views(config, channels), optimizer, **options)
