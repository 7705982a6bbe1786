"""Which column holds the images and which the labels, of tables and archives; and what labels say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssl_toolkit.data.batch import IMAGE_KEYS, LABEL_KEYS
from ssl_toolkit.errors import UsageError, unknown_name


class Named(NamedTuple):
    """What a word says of its columns.

    Attributes:
        word: The word without that.
        image: Column of the images; None: found.
        label: Column of the labels; None: found.
    """

    word: str
    image: str | None = None
    label: str | None = None


def named_columns(word: str) -> Named:
    """A word that may end in ``,image=COLUMN`` and ``,label=COLUMN``.

    Raises:
        UsageError: It ends in something else of that form.

    Examples:
        >>> named_columns("hf:cifar100:train,image=img,label=coarse_label")
        Named(word='hf:cifar100:train', image='img', label='coarse_label')
    """
    word, *options = re.split(r",(?=\w+=)", word)
    found = dict(option.split("=", 1) for option in options)
    for name in found:
        if name not in ("image", "label"):
            raise UsageError(f"{word}: '{name}=' is none of image=COLUMN and label=COLUMN")
    return Named(word, **found)


def image_column(word: str, columns: Mapping[str, str], images: Sequence[str], named: str | None) -> str:
    """The column of images.

    Args:
        word: What the table is called.
        columns: All columns, and the type of each in words.
        images: Those that can hold images.
        named: The one that the user names.

    Raises:
        UsageError: There is none, or none that is named, or several.
    """
    if named is not None:
        if named not in columns:
            raise unknown_name(f"column of {word}", named, columns)
        if named not in images:
            raise UsageError(f"{word}: the column '{named}' holds no images, but {columns[named]}")
        return named
    usual = [name for name in IMAGE_KEYS if name in images] or list(images)
    if not usual:
        there = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
        raise UsageError(f"{word}: no column holds images; there are {there[:300]}")
    if usual[0] not in IMAGE_KEYS and len(usual) > 1:
        raise UsageError(f"{word}: the columns {', '.join(usual)} hold images: name one, as in {word},image={usual[0]}")
    return usual[0]


def label_column(word: str, columns: Mapping[str, str], labels: Sequence[str], named: str | None) -> str | None:
    """The column of labels, None where there is none; arguments as of `image_column`.

    Raises:
        UsageError: The named one is not there, or holds neither class numbers nor text.
    """
    if named is None:
        return next((name for name in LABEL_KEYS if name in labels), None)
    if named not in columns:
        raise unknown_name(f"column of {word}", named, columns)
    if named not in labels:
        raise UsageError(f"{word}: the column '{named}' holds neither class numbers nor text, but {columns[named]}")
    return named
