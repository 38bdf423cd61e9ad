"""Files that are either wholly written or not touched at all, whatever happens to the process or the disk.

Everything is written beside its destination under a hidden temporary name, flushed to the disk, and then renamed: a
reader sees the old content or the new, never a mixture, also after ``kill -9`` or a power failure. A killed process
leaves files and folders behind whose names begin with ``.chainrule-partial-``; :func:`remove_partial` and
:func:`remove_abandoned` clear them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from chainrule.core.errors import ChainruleError, ConfigError, RunError
from chainrule.core.names import escape_terminal, shown_path

if sys.platform != "win32":
    import fcntl

PARTIAL_PREFIX = ".chainrule-partial-"
LARGEST_JSON = 64 * 2**20  # bytes

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would grow beyond the file-size limit (see `ulimit -f`)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission was denied",
    errno.EPERM: "permission was denied",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "its name is too long",
}


# --- single files -----------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for writing bytes that appears at ``path`` when the block ends without an exception.

    Until then, and for good if the block raises, ``path`` keeps its old content (or stays absent). A symbolic link is
    followed, the permissions of an existing file are kept, and something that is not a regular file, such as
    ``/dev/stdout`` or a pipe, is written to directly. The block may close the file.

    Raises:
        RunError: when writing fails (disk full, file-size limit, no permission …); the message names the file.
    """
    with _saying_cannot_write(path):
        target, mode = _resolve_target(path)
        if mode is not None and not stat.S_ISREG(mode):
            with target.open("wb") as stream:
                yield stream
            return
        partial = _partial_sibling(target)
        try:
            with partial.open("xb") as file:
                if mode is not None and hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), stat.S_IMODE(mode))
                yield file
            _sync_file(partial)
            partial.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces the content of ``path`` by ``data``, atomically; raises as :func:`atomic_write` does."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replaces the content of ``path`` by ``text`` in UTF-8, line ends as they are; raises as :func:`atomic_write`."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def _saying_cannot_write(path: Path) -> Iterator[None]:
    """Turns an OSError of the file being written into a RunError; errors about other, named files pass unchanged."""
    try:
        yield
    except ChainruleError:
        raise
    except OSError as error:
        if error.filename is not None and not _is_part_of_writing(Path(os.fsdecode(error.filename)), path):
            raise
        raise RunError(f"cannot write {shown_path(path)}: {reason(error)}") from error


def _is_part_of_writing(named: Path, path: Path) -> bool:
    if any(part.startswith(PARTIAL_PREFIX) for part in named.parts):
        return True
    target = Path(os.path.realpath(path))
    return Path(os.path.realpath(named)) in (target, target.parent)


def reason(error: OSError) -> str:
    """Why an operating-system call failed, as the end of a sentence: ``the disk is full``."""
    if error.errno in _REASONS:
        return _REASONS[error.errno]
    return (error.strerror or str(error) or type(error).__name__).lower()


def _resolve_target(path: Path) -> tuple[Path, int | None]:
    """The file that ``path`` stands for after following links, and its mode if it exists."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return target, mode


def _partial_sibling(target: Path) -> Path:
    return target.parent / f"{_partial_names(target)}{secrets.token_hex(8)}"


def _partial_names(target: Path) -> str:
    """How the names of what is to take the place of ``target`` begin: they tell it from what is for another place."""
    return f"{PARTIAL_PREFIX}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}-"


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes renames inside ``folder`` durable, where the system can (not on Windows, not for unreadable folders)."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


# --- whole folders ----------------------------------------------------------------------------------------------------


@contextmanager
def atomic_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, which appears at ``path``, complete, when the block ends without an exception.

    If the block raises, the folder is removed and ``path`` is as it was. A file or a non-empty folder already at
    ``path`` is an error; with ``force`` it is replaced, and stays until the new folder is complete on the disk.

    Raises:
        RunError: when ``path`` exists already (without ``force``), or when writing fails; the message names the folder.
    """
    with _saying_cannot_write(path):
        if not force and is_occupied(path):
            raise RunError(f"{shown_path(path)} exists already; choose another folder, or overwrite it with --force")
        new = NewDirectory(path)
        with new.removed_on_error():
            yield new.here
            new.put_in_place(force=force)


class NewDirectory:
    """An empty folder to fill beside ``path``, where :meth:`put_in_place` moves it. Until then ``path`` is as it was.

    Both raise RunError naming ``path`` where writing fails. The folder is locked until it is in place or removed, so that
    :func:`remove_abandoned` knows that it is being written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.here = path
        """Where it is now."""
        self._lock: int | None = None
        with _saying_cannot_write(path):
            while self.is_in_place:
                self._make()

    def _make(self) -> None:
        """The folder, unless another process has taken it for an abandoned one before it was locked."""
        here = _partial_sibling(self.path)
        here.mkdir()
        with contextlib.suppress(BlockingIOError):
            lock = _lock(here)
            if here.is_dir():
                self.here, self._lock = here, lock
            else:
                _unlock(lock)

    @property
    def is_in_place(self) -> bool:
        return self.here == self.path

    def put_in_place(self, *, force: bool) -> None:
        """The folder as it is, complete on the disk, at ``path``; with ``force`` in the place of what is there."""
        with _saying_cannot_write(self.path):
            _sync_tree(self.here)
            _move_into_place(self.here, self.path, force=force)
            self.here = self.path
            _unlock(self._lock)
            _sync_folder(self.path.parent)

    @contextmanager
    def removed_on_error(self) -> Iterator[None]:
        """Removes the folder where the block raises before it is in place."""
        try:
            yield
        except BaseException as error:
            if self.is_in_place:
                raise
            shutil.rmtree(self.here, ignore_errors=True)
            _unlock(self._lock)
            if isinstance(error, RunError):  # a file inside failed; name it by the place where it was going to be
                raise RunError(str(error).replace(shown_path(self.here), shown_path(self.path))) from error
            raise


def remove_partial(folder: Path) -> int:
    """Removes what killed processes left half-written in ``folder`` (not deeper) and returns how many entries.

    Call it only while no other process writes into ``folder``.
    """
    leftovers = [entry for entry in folder.iterdir() if entry.name.startswith(PARTIAL_PREFIX)]
    for entry in leftovers:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(leftovers)


def remove_abandoned(path: Path) -> None:
    """Removes the folders that killed processes have left beside ``path``, whose place they were to take, and none that a living
    process writes. Where the system or the file system has no locks, all of them stay."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for entry in [entry for entry in path.parent.iterdir() if entry.name.startswith(_partial_names(path))]:
            with contextlib.suppress(BlockingIOError):
                lock = _lock(entry)
                if lock is not None:
                    shutil.rmtree(entry, ignore_errors=True)
                    _unlock(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that keeps other processes from locking a folder until it is closed, by its process's end at the latest; None
    where there are no locks, and for what is no folder or cannot be opened.

    Raises BlockingIOError where another has locked it.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def is_occupied(path: Path) -> bool:
    """Whether there is something that a folder at ``path`` would replace; an empty folder is nothing."""
    if path.is_dir():
        return any(path.iterdir())
    return os.path.lexists(path)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(parent, name))
        _sync_folder(Path(parent))


def _move_into_place(partial: Path, path: Path, *, force: bool) -> None:
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
    if not (force and os.path.lexists(path)):
        partial.rename(path)  # refuses to replace a folder that another process has filled in the meantime
        return
    old = _partial_sibling(path)
    try:
        path.rename(old)
        partial.rename(path)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink()


# --- JSON -------------------------------------------------------------------------------------------------------------


def write_json(path: Path, obj: object) -> None:
    """Replaces the content of ``path`` by ``obj`` as standard JSON, atomically; :func:`read_json` returns it exactly.

    Accepted are dicts with text keys (their order is kept), lists and tuples (which come back as lists), text, None,
    booleans, integers, floats, and NumPy scalars. Floats are written with the digits that determine them. JSON has no
    NaN and no infinities: they are written as ``{"$float": "nan"}``, ``{"$float": "inf"}`` and ``{"$float": "-inf"}``.

    Raises:
        TypeError: for anything else inside ``obj``, before anything is written.
        RunError: when writing fails; the message names the file.
    """
    write_text(path, to_json(obj) + "\n")


def to_json(obj: object) -> str:
    """The JSON text that :func:`write_json` writes."""
    plain = _to_plain(obj)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=2)
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return json.dumps(plain, ensure_ascii=True, allow_nan=False, indent=2)  # lone surrogates have no UTF-8 form


def read_json(path: Path, *, largest: int = LARGEST_JSON, error: Callable[[str], ChainruleError] = RunError) -> Any:
    """What :func:`write_json` has written to ``path``.

    Args:
        path: the file.
        largest: size in bytes above which the file is refused unread.
        error: the class of the exception to raise.

    Raises:
        RunError: (or ``error``) when the file is missing, too large, or not standard JSON in UTF-8 without repeated
            keys; the message names the file and the line.
    """
    data = _read_up_to(path, largest, error, "JSON")
    try:
        return from_json(data)
    except ValueError as failure:
        raise error(f"{shown_path(path)} is not valid JSON: {failure}") from failure


def read_toml(path: Path, *, largest: int) -> dict[str, Any]:
    """The tables of a TOML file in UTF-8; ConfigError naming the file where it is missing, too large or not TOML."""
    data = _read_up_to(path, largest, ConfigError, "TOML")
    shown = shown_path(path)
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as failure:
        raise ConfigError(f"{shown} is not text in UTF-8: byte {failure.start} cannot be read") from None
    except tomllib.TOMLDecodeError as failure:
        raise ConfigError(f"{shown} is not valid TOML: {escape_terminal(failure)}") from None
    except RecursionError:
        raise ConfigError(f"{shown} is nested too deeply") from None


def _read_up_to(path: Path, largest: int, error: Callable[[str], ChainruleError], what: str) -> bytes:
    """The bytes of a file that is not larger than ``largest``."""
    shown = shown_path(path)
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise error(f"{shown} does not exist") from None
    except OSError as failure:
        raise error(f"cannot read {shown}: {reason(failure)}") from failure
    if len(data) > largest:
        raise error(f"{shown} is larger than {largest} bytes, more than is read as {what} here")
    return data


def from_json(data: bytes | str) -> Any:
    """The object that JSON text stands for, the inverse of :func:`to_json`; ValueError if it is not JSON."""
    plain = parse_strict_json(data)
    try:
        return _from_plain(plain)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_strict_json(data: bytes | str) -> Any:
    """Standard JSON without extensions: UTF-8, no repeated keys, no NaN; ValueError with the reason otherwise."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except UnicodeDecodeError as failure:
        raise ValueError(f"byte {failure.start} is not UTF-8") from None
    except json.JSONDecodeError as failure:
        raise ValueError(f"line {failure.lineno}, column {failure.colno}: {failure.msg}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _to_plain(obj: object) -> object:
    if obj is None or isinstance(obj, (str, bool, int)):
        return obj
    if isinstance(obj, np.generic):
        return _to_plain(_scalar(obj))
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else {"$float": repr(obj)}
    if isinstance(obj, (list, tuple)):
        return [_to_plain(item) for item in obj]
    if isinstance(obj, dict):
        if not all(isinstance(key, str) for key in obj):
            raise TypeError(
                f"keys of a JSON object must be text, not {next(k for k in obj if not isinstance(k, str))!r}"
            )
        plain = {key: _to_plain(value) for key, value in obj.items()}
        return {"$object": plain} if _looks_tagged(plain) else plain
    raise TypeError(f"{type(obj).__name__} cannot be written as JSON")


def _scalar(obj: np.generic) -> object:
    if isinstance(obj, (np.bool_, np.integer, np.floating)) and not isinstance(obj, np.longdouble):
        return obj.item()
    raise TypeError(f"{type(obj).__name__} cannot be written as JSON")


def _from_plain(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_from_plain(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if _looks_tagged(plain):
        [(tag, content)] = plain.items()
        if tag == "$float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if tag == "$object" and isinstance(content, dict):
            return {key: _from_plain(value) for key, value in content.items()}
        raise ValueError(f"{escape_terminal(content, limit=40)} cannot stand behind {tag}")
    return {key: _from_plain(value) for key, value in plain.items()}


def _looks_tagged(plain: dict[str, Any]) -> bool:
    return len(plain) == 1 and next(iter(plain)) in ("$float", "$object")


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{escape_terminal(repeated, limit=80)}' is there twice")
    return result


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {escape_terminal(text, limit=40)} is too large")
    return value
