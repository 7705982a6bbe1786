"""The methods that are installed, by their short names: ours and any other package's, from the same entry points."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ssl_toolkit.errors import UsageError, unknown_name

if TYPE_CHECKING:
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
