"""Samples of a tar file as WebDataset has them: files one after another that share a name up to its first dot.

Nothing is ever unpacked: of each sample the image's bytes go to our own decoder, a ``.cls`` is read as text, a
``.json`` as JSON. Whatever else is there, pickles among them, is passed over.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ssl_toolkit.data.batch import LABEL_KEYS
from ssl_toolkit.data.images import SUFFIXES

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_LABEL = 1 << 20  # bytes of a .cls or .json
DIGITS = 10  # from so many on, a number is a name
MAX_IMAGE = 1 << 29  # bytes of an image file, which is read into memory whole
_JSON_KEYS = (*LABEL_KEYS, "cls", "class")

Label = int | str | None


class Sample(NamedTuple):
    """An image of a tar file.

    Attributes:
        offset: Where its bytes begin in the tar file.
        size: How many they are.
        label: A class number, text, or None.
        data: The bytes, where they are read at once and no more than `MAX_IMAGE`.
    """

    offset: int
    size: int
    label: Label
    data: bytes | None


def samples(file: BinaryIO, image: str | None, label: str | None, whole: bool) -> Iterator[Sample]:
    """The images of a tar file, in its order; samples without one are left out.

    Args:
        file: The file, at its beginning.
        image: What the name of an image ends in, behind its first dot: ``jpg``, ``left.png``. None: what is an image
            by its suffix, the first of a sample.
        label: What a label's name ends in, ``cls`` or ``txt``, or the field of the ``.json``. None: ``cls``, else
            the field ``label``, ``target``, ``cls`` or ``class``.
        whole: Read the images' bytes too, and the file from end to end, compressed or not, without going back.

    Raises:
        tarfile.TarError, OSError, EOFError: The file is cut short or no tar file.
    """
    with tarfile.open(fileobj=file, mode="r|*" if whole else "r:", tarinfo=_Whole) as tar:
        yield from _samples(tar, image, label, whole)


def _samples(tar: tarfile.TarFile, image: str | None, label: str | None, whole: bool) -> Iterator[Sample]:
    key, found = "", _Sample(image, label, whole)
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        if not member.isreg() or member.issparse():
            continue
        folder, name = os.path.split(member.name)
        stem, _, ending = name.partition(".")
        if not stem:  # hidden
            continue
        if os.path.join(folder, stem) != key:
            yield from found.finished()
            key, found = os.path.join(folder, stem), _Sample(image, label, whole)
        found.add(tar, member, ending.lower())
    yield from found.finished()


class _Sample:
    """A sample whose files are still being read."""

    def __init__(self, image: str | None, label: str | None, whole: bool) -> None:
        self.image, self.label, self.whole = image and image.lower(), label, whole
        self.found: tuple[int, int, bytes | None] | None = None
        self.labels: dict[str, Label] = {}

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> None:
        is_image = ending == self.image if self.image else "." + ending.rpartition(".")[2] in SUFFIXES
        if is_image and self.found is None:
            wanted = self.whole and member.size <= MAX_IMAGE
            self.found = member.offset_data, member.size, _read(tar, member) if wanted else None
        elif ending == (self.label or "cls").lower() and member.size <= MAX_LABEL:
            self.labels["cls"] = _number_or_text(_read(tar, member).decode("utf-8", "replace").strip())
        elif ending == "json" and member.size <= MAX_LABEL:
            self.labels["json"] = _label_of(_read(tar, member), (self.label,) if self.label else _JSON_KEYS)

    def finished(self) -> Iterator[Sample]:
        if self.found is not None:
            offset, size, data = self.found
            yield Sample(offset, size, self.labels.get("cls", self.labels.get("json")), data)


class _Whole(tarfile.TarInfo):
    """Raises where `tarfile` takes a header that is damaged or not there for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the blocks of zeros that do end it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header where one must be: {error}") from error


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _number_or_text(text: str) -> Label:
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < DIGITS else text or None


def _label_of(data: bytes, keys: tuple[str, ...]) -> Label:
    """What a JSON object has under the first of the keys that it knows."""
    try:
        fields: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    found = next((fields[key] for key in keys if key in fields), None) if isinstance(fields, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | str):
        return None
    return _number_or_text(str(found)) if isinstance(found, int) else found or None
