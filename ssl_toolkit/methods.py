"""The methods that are installed, by their short names: ours and any other package's, from the same entry points."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.optim import OptimizerConfig

if TYPE_CHECKING:
    from ssl_toolkit.augment import Views
    from ssl_toolkit.encoders import Encoder
    from ssl_toolkit.method import Method

GROUP = "ssl_toolkit.methods"


def installed_methods() -> dict[str, str]:
    """Short name to ``module:Class`` of every method that a package registers in the group ``ssl_toolkit.methods``."""
    return {point.name: point.value for point in sorted(entry_points(group=GROUP))}


def method_class(name: str) -> type[Method]:
    """The class behind a short name or a class path.

    Args:
        name: ``simclr``, or ``my_package.my_module.MyMethod``.

    Raises:
        UsageError: If there is no such method, or it is no `Method`.
    """
    from ssl_toolkit.method import Method

    methods = installed_methods()
    if name not in methods and "." not in name:
        raise unknown_name("method", name, methods)
    if name not in methods and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a method under work lies; a console script does not look there
    module, _, attribute = methods.get(name, ":".join(name.rsplit(".", 1))).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--method {name} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"--method {name} is no ssl_toolkit.method.Method")
    return found


def configured_views(config: dict[str, Any], channels: int) -> Views:
    """The views that a configuration of a run says.

    Args:
        config: As ``config.yaml`` has it.
        channels: Of an image, or of all frames of a clip together.

    Raises:
        TypeError: If the method's recipe of views has no such option.
    """
    views: Views = method_class(config["method"]["name"]).default_views(channels=channels, **config["views"])
    return views


def configured_method(config: dict[str, Any], encoder: Encoder, channels: int) -> Method:
    """The method that a configuration of a run says, around `encoder`; see `configured_views`."""
    options = {name: value for name, value in config["method"].items() if name != "name"}
    found = method_class(config["method"]["name"])
    return found(encoder, configured_views(config, channels), OptimizerConfig(**config["optimizer"]), **options)
