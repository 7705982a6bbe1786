"""Objects of Python in a run's settings: what ``config.yaml`` calls them, and what is said where no more is left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from ssl_toolkit.errors import UsageError


def import_path(found: Any) -> str:
    """Where a class or function is defined: ``my_package.module.Name``."""
    return f"{found.__module__}.{found.__qualname__}"


def describe(value: Any) -> str:
    """The words that stand for an object: where it is from and, if it has them, its shape and type or its length.

    Examples:
        >>> describe([1, 2, 3])
        '<list of 3>'
    """
    if hasattr(value, "__qualname__"):
        return f"<{import_path(value)}>"
    name = import_path(type(value)).removeprefix("builtins.")
    if isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype"):
        return f"<{name} {tuple(value.shape)} {value.dtype}>"
    return f"<{name} of {len(value)}>" if hasattr(value, "__len__") else f"<{name}>"


def is_object(word: object) -> bool:
    """Whether a setting is what `describe` wrote."""
    return isinstance(word, str) and word.startswith("<") and word.endswith(">") and not os.path.lexists(word)


def missing_object(argument: str, described: str) -> UsageError:
    """A `UsageError` for a setting of which only the description is left."""
    return UsageError(
        f"{argument} was an object of Python, {described}, which cannot be made again from its name: give it again in "
        f"Python, as pretrain(..., {argument}=..., resume=True) does"
    )


def refuse_objects(settings: Mapping[str, Any]) -> None:
    """Refuse settings of which only a description is left.

    Raises:
        UsageError: Naming the first one.
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            refuse_objects({key if name == "name" else f"{key}.{name}": part for name, part in value.items()})
        for part in value if isinstance(value, list) else [value]:
            if is_object(part):
                raise missing_object(key, part)


def plain(value: Any) -> Any:
    """A setting as YAML holds it: objects by their description, paths as text, NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    return describe(value)
