"""Words to image sets: ``shapes:train``, ``cifar10:test``, a folder, a manifest, an array, shards, a table.

One file of this folder is one kind of source; the tables below say which words mean it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, get_args

from ssl_toolkit.data.arrays import open_array_file
from ssl_toolkit.data.depth import parse_range
from ssl_toolkit.data.folder import open_folder
from ssl_toolkit.data.given import open_given
from ssl_toolkit.data.hugging_face import open_hf, open_hf_stream, open_parquet
from ssl_toolkit.data.image_set import ImageSet, Labels, Wanted, unlabelled
from ssl_toolkit.data.lance_table import open_lance
from ssl_toolkit.data.manifest import open_manifest
from ssl_toolkit.data.scenes import open_scenes
from ssl_toolkit.data.shapes import open_shapes
from ssl_toolkit.data.shards import open_shard_stream, open_shards, open_tar
from ssl_toolkit.data.sound import open_sounds
from ssl_toolkit.data.torchvision_sets import TORCHVISION, open_torchvision
from ssl_toolkit.data.video import open_clips
from ssl_toolkit.errors import UsageError, unknown_name
from ssl_toolkit.objects import is_object, missing_object

DEFAULT_ROOT = "data"

Opener: TypeAlias = Callable[[str, Wanted], ImageSet]

# What a word means by what stands before its first colon; the opener gets the word.
NAMES: dict[str, Opener] = {
    "shapes": open_shapes,
    "scenes": open_scenes,
    "clips": open_clips,
    "hf": open_hf,
    "lance": open_lance,
    "stream": lambda word, wanted: open_stream(word, wanted),
    "wds": open_shards,
    "sounds": open_sounds,
    **dict.fromkeys(TORCHVISION, open_torchvision),
}

# What can be read from end to end; the opener gets the word behind ``stream:``.
STREAMS: dict[str, Opener] = {"hf": open_hf_stream, "wds": open_shard_stream}

# What a file is by its suffix; the opener gets the path.
FILES: dict[str, Opener] = {
    ".csv": open_manifest,
    ".tsv": open_manifest,
    ".npy": open_array_file,
    ".npz": open_array_file,
    ".tar": open_tar,
    ".parquet": open_parquet,
}

# What may be named behind the path of a file with columns.
_COLUMNS = re.compile(r"(?:(?<=\.tar)|(?<=\.lance)|(?<=\.parquet)),\w+=.*", re.DOTALL)


def open_images(
    word: Any,
    *,
    root: str | os.PathLike[str] | None = None,
    labels: Labels = "auto",
    channels: int | None = None,
    range: str | Sequence[float] | None = None,
    count: int | None = None,
) -> ImageSet:
    """Open an image set by the word for it; a path that exists wins over a name. Or what Python holds, as one.

    Args:
        word: A word or path, one of

            - ``shapes:train``, ``shapes:test``, ``shapes:train:2000``: rendered, the number is the count; and
              ``scenes:train``, likewise, with captions;
            - a data set of torchvision and its split, ``cifar10:train`` (all: `torchvision_names`);
            - a folder, searched for images at any depth;
            - a manifest ``list.csv`` or ``list.tsv``, in UTF-8, with a column ``path`` (relative to the manifest) and,
              if you like, ``label``, ``split`` and ``caption``; ``list.csv:val`` takes one split. Columns are separated
              by commas, semicolons or tabs, and may have other usual names, such as ``file_name`` and ``class``;
            - an array ``images.npy`` or ``images.npz`` (key ``images``, ``x`` or ``data``, and ``labels`` or ``y``):
              (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, uint16 or floats in [0, 1], with a `range` other
              numbers too; any number of channels.
              A ``.npy`` is mapped, a ``.npz`` is read into memory;
            - clips, ``clips:PATH`` or ``clips:PATH:8:2``, of a video, a folder of videos, or a folder of frames or of
              folders of frames, in the order of their names. The numbers are the frames of a clip (8) and the stride
              from frame to frame (2); a third is the hop from clip to clip (frames x stride, so that they do not
              overlap). With one frame, ``clips:PATH:1``, these are images like others. Videos need the extra ``video``;
            - shards as WebDataset has them, ``wds:shards-{000..099}.tar``, a glob or their folder; also by URL,
              ``wds:s3://...``. Labels are in a ``.cls`` or in a field of a ``.json``;
            - a data set of Hugging Face, ``hf:NAME:train`` or ``hf:NAME:CONFIGURATION:train``, or one that was saved,
              ``hf:FOLDER``, ``hf:FOLDER:train``; a table ``images.parquet``. They need the extra ``hf``;
            - a table ``images.lance``, also by URL, ``lance:s3://...``. It needs the extra ``lance``;
              in these three, ``,image=COLUMN`` and ``,label=COLUMN`` behind the word name the columns that are meant;
            - ``stream:wds:...`` and ``stream:hf:...``, the same read from end to end, without looking anything up; with
              the images of an epoch, ``stream:1000000:wds:...``, where the source does not tell;
            - ``sounds:PATH`` or ``sounds:PATH:0.5``, of a video or a folder of videos: a frame every second, or half
              second, with the second of sound around it;

            or an object: a list or array of paths; an array or tensor of images, as in a file; a map-style data set of
            torch, or a list, whose items are a PIL image, an array or a tensor, or a tuple or dictionary of that and a
            label; a `datasets.Dataset` or `IterableDataset`; a `lance.LanceDataset`; an `ImageSet`.
        root: Where torchvision's data sets lie and are downloaded to; ``data`` in the current folder by default.
        labels: "none" drops all labels. Of a folder, "folder" makes the subfolders directly below it the classes and
            refuses images outside them; "auto" does so where every image lies in one of at least two subfolders, none
            of them named like a split (train, val, test, ...), and otherwise reads no labels.
        channels: What `ImageSet.load` gives, of clips for each frame; by default 3 for files and what the data set has
            for the others. Other than 1 and 3, files must be TIFFs or DICOM files that have as many.
        range: The values that become 0 and 1 of images deeper than 8 bits, ``"0,4095"`` or two numbers; others are
            clamped. ``auto`` measures them: the outer thousandths of the values of up to 256 images. By default 0 to
            65,535 of uint16, and of floats 0 to 1.
        count: Images of an epoch, of a stream; by default as many as it says that it has.

    Raises:
        UsageError: No such name, path or split, no images in it, or a manifest, array or data set that cannot be read.

    Examples:
        >>> images = open_images("shapes:test:20")
        >>> len(images), images.classes[:2], images.load(0, size=None).shape, images.path(0)
        (20, ['boat', 'bottle'], (3, 64, 64), 'shapes:test:20#0')
        >>> import numpy as np
        >>> open_images(np.zeros((5, 48, 32, 3), np.uint8)).load(0, size=16).shape
        (3, 24, 16)
    """
    if labels not in get_args(Labels):
        raise unknown_name("value of labels", labels, get_args(Labels))
    wanted = Wanted(
        os.path.abspath(os.path.expanduser(root or DEFAULT_ROOT)), labels, channels, parse_range(range), count
    )
    if isinstance(word, str | os.PathLike):
        word = os.fspath(word)
        if labels == "folder" and not os.path.isdir(os.path.expanduser(word)):
            raise UsageError(f"labels by folder need a folder, '{word}' is none: leave labels at auto")
        images = _open_word(word, wanted)
        images.word = word
    elif labels == "folder":
        raise UsageError("labels by folder need a folder, data is an object: leave labels at auto")
    else:
        images = open_given(word, wanted)
    if count is not None and images.indexed:
        raise UsageError(f"count is {count}: it is for streams, and '{images.word}' is none")
    if labels == "none":
        images.labels = unlabelled(len(images))
    if images.indexed and bool((images.labels < 0).all()):
        images.classes = None
    return images


def _open_word(word: str, wanted: Wanted) -> ImageSet:
    if is_object(word):
        raise missing_object("data", word)
    path = os.path.expanduser(word)
    place = path if os.path.exists(path) else _COLUMNS.sub("", path)
    if os.path.isdir(place):
        return open_lance(f"lance:{path}", wanted) if _suffix(place) == ".lance" else open_folder(path, wanted)
    if os.path.exists(place):
        return _open_file(word, place, path, wanted)
    file, _, part = path.rpartition(":")
    if os.path.isfile(file) and FILES.get(_suffix(file)) is open_manifest:
        return open_manifest(file, wanted, part)
    name, colon, rest = word.partition(":")
    name = name.lower().replace("-", "_")
    if name in NAMES:
        return NAMES[name](name + colon + rest, wanted)
    if os.sep in word or word.startswith((".", "~")) or {_suffix(place), _suffix(file)} & FILES.keys():
        raise UsageError(f"no such file or folder: '{word}'")
    raise UsageError(f"{unknown_name('data set', name, NAMES)}; and no file or folder of that name")


def open_stream(word: str, wanted: Wanted) -> ImageSet:
    """What ``stream:`` or ``stream:COUNT:`` stands before; see `open_images`.

    Raises:
        UsageError: It is none of `STREAMS`, or cannot be opened.
    """
    inner = word.partition(":")[2]
    number, _, rest = inner.partition(":")
    count = int(number) if number.isdecimal() and int(number) else None
    inner = inner if count is None else rest
    name = inner.partition(":")[0]
    if name not in STREAMS:
        raise UsageError(f"{word}: only {' and '.join(f'{each}:...' for each in STREAMS)} can be streamed")
    return STREAMS[name](inner, wanted if count is None else replace(wanted, count=count))


def _open_file(word: str, place: str, path: str, wanted: Wanted) -> ImageSet:
    """The images of a file that lies at `place`; `path` may name columns of it besides."""
    if not os.path.isfile(place):  # opening a pipe would wait for ever
        raise UsageError(f"'{word}' is neither a folder nor a regular file")
    if _suffix(place) not in FILES:
        *known, last = FILES
        raise UsageError(
            f"'{word}' is a file, but no {', '.join(known)} or {last}: for single images give their folder"
        )
    return FILES[_suffix(place)](path, wanted)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
