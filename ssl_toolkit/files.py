"""Files that are whole or absent: written beside, synced, renamed; and the hash that says which bytes they hold."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ssl_toolkit.errors import UsageError


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A fresh name in the folder of `path` for its next content; what is left there at the end is deleted.

    The name starts with a dot, holds ``.tmp-`` and ends in the suffix of `path`, since many writers go by it. It lies
    in the same folder because a rename is atomic only within one file system. A process that is killed outright may
    leave it behind; nothing ever reads it.
    """
    temporary = path.with_name(f".{path.stem[:100]}.tmp-{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or folder down to the disk (folders: the names in it; a no-op for folders off POSIX)."""
    folder = path.is_dir()
    if folder and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened(path: Path) -> BinaryIO:
    """A file to read and write, made if it is not there."""
    path.touch()
    return path.open("r+b")


def force(file: BinaryIO) -> None:
    """Force what was written to an open file down to the disk."""
    file.flush()
    os.fsync(file.fileno())


def lock(file: BinaryIO, folder: Path) -> None:
    """Keep other processes out of `folder` until `file`, one of its own that is not replaced, is closed.

    Where the system or the disk has no locks, nothing is done.

    Raises:
        UsageError: Another process has the lock.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by the processes that read images
    except (BlockingIOError, PermissionError) as error:
        raise UsageError(f"{folder} is being written by another process: name another folder, or wait") from error
    except OSError:  # a network's disk without locks
        return


def write_atomic(path: str | os.PathLike[str], writer: Callable[[Path], object]) -> None:
    """Write a file such that its name never stands for half of it, whatever happens meanwhile.

    Args:
        path: The file to make or replace. Its folder must exist.
        writer: Writes the content to the path that it is given: a temporary one in the same folder, same suffix.

    Raises:
        OSError: The folder is missing or read-only, or the disk is full. Whatever `writer` raises passes through. In
            either case `path` is as it was before and nothing is left beside it.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder) / "a.txt", lambda temporary: temporary.write_text("whole"))
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    with temporary_beside(path) as temporary:
        writer(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def make_folder(path: str | os.PathLike[str], option: str) -> None:
    """Make a folder with those above it, unless it is there.

    Args:
        path: The folder.
        option: What named it, for the error.

    Raises:
        UsageError: It cannot be made, or not be written to.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {os.fspath(path)} cannot be written: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {os.fspath(path)} cannot be written: it is read-only")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; constant memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
