"""Compiled libraries on the disk, in a folder that belongs to this user alone.

An entry is one file, ``<key>-<hash of the content><suffix>``: the key says what it was made from, the hash whether it is still
what was written. Entries appear by renaming, whole or not at all; a file that does not match its hash is removed and
made again, never used. Processes that want the same entry at once wait for the first one.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from chainrule.core.files import PARTIAL_PREFIX, reason
from chainrule.core.names import shown_path
from chainrule.core.notices import say_once

if sys.platform != "win32":  # where the cpu engine only says that it does not work
    import fcntl

LONGEST_WAIT = 120.0  # seconds to wait for another process that makes the same entry, before making it too
KEPT_DAYS = 60  # entries that nobody has used for so long are removed

_DAY = 24 * 3600.0
_DIGITS = 40  # hexadecimal digits of a SHA-256 in a file name
_ENTRY = re.compile(rf"[0-9a-f]{{{_DIGITS}}}-[0-9a-f]{{{_DIGITS}}}\.\w+")
_SHARD = re.compile("[0-9a-f]{2}")  # the folder of all entries whose keys begin so
_STAMP = "cleaned"


class UnsafeFolderError(Exception):
    """A folder that compiled code must not be loaded from, or cannot be written to; the message says why."""


def entry_key(*parts: str) -> str:
    """The key of what is made from these texts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:_DIGITS]


class Cache:
    """Entries in one private folder, which is made if it is missing.

    Raises:
        UnsafeFolderError: if the folder is a link, belongs to another user, can be written to by others, is read-only, or is one
            that others read and that holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_private(folder)
        self._remove_old()

    def find(self, key: str, suffix: str) -> Path | None:
        """The entry, if it is there and undamaged."""
        for path in self._versions(key, suffix):
            if _is_intact(path, key, suffix):
                return path
            _remove(path)
        return None

    def obtain(self, key: str, suffix: str, make: Callable[[Path], None]) -> Path:
        """The entry; where it is missing or damaged, ``make(path)`` has to write it.

        Raises:
            OSError: if the folder cannot be written to; and whatever ``make`` raises, after which nothing has changed.
        """
        found = self.find(key, suffix)
        if found:
            return found
        shard = self.folder / key[:2]
        shard.mkdir(mode=0o700, exist_ok=True)
        with _lock(shard / "lock"):
            found = self.find(key, suffix)  # made while we waited
            if found:
                return found
            with tempfile.TemporaryDirectory(
                prefix=PARTIAL_PREFIX, dir=self.folder, ignore_cleanup_errors=True
            ) as work:
                made = Path(work) / f"made{suffix}"
                make(made)
                final = shard / f"{key}-{_hash(made.read_bytes())}{suffix}"
                made.replace(final)
                return final

    def discard(self, key: str, suffix: str) -> None:
        """Forget an entry, so that the next ``obtain`` makes it anew."""
        for path in self._versions(key, suffix):
            _remove(path)

    def _versions(self, key: str, suffix: str) -> list[Path]:
        try:
            with os.scandir(self.folder / key[:2]) as entries:
                return [Path(e.path) for e in entries if e.name.startswith(f"{key}-") and e.name.endswith(suffix)]
        except FileNotFoundError:
            return []

    def _remove_old(self) -> None:
        """Once a day: what nobody has used for two months, and what killed processes left behind."""
        stamp = self.folder / _STAMP
        now = time.time()
        try:
            if now - stamp.stat().st_mtime < _DAY:
                return
        except FileNotFoundError:
            pass
        with contextlib.suppress(OSError):  # others may be clearing up as well
            stamp.touch()
            for path in self.folder.iterdir():
                if path.name.startswith(PARTIAL_PREFIX) and now - path.stat().st_mtime > _DAY:
                    shutil.rmtree(path, ignore_errors=True)
            for path in self.folder.glob("??/*-*"):
                if _ENTRY.fullmatch(path.name) and now - path.stat().st_mtime > KEPT_DAYS * _DAY:
                    path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _is_intact(path: Path, key: str, suffix: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            if path.name != f"{key}-{_hash(file.read())}{suffix}":
                return False
        if time.time() - status.st_mtime > _DAY:
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # in use
        return True
    finally:
        os.close(descriptor)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keeps other processes and threads out, as far as the file system can, and not for ever.

    The lock is gone with the process that holds it. A forked child of that process keeps it, hence the longest wait;
    without the lock the same entry is made twice, which does no harm.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        given_up = time.monotonic() + LONGEST_WAIT
        pause = 0.002
        while time.monotonic() < given_up:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


# --- the folder -------------------------------------------------------------------------------------------------------


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, or check that it is one. One that holds anything else keeps its mode.

    Raises:
        UnsafeFolderError: if it is not and cannot be made so.
    """
    shown = shown_path(folder)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise UnsafeFolderError(f"{shown} is not a folder")
        if status.st_uid != os.geteuid():
            raise UnsafeFolderError(f"{shown} belongs to another user")
        if status.st_mode & 0o022:
            raise UnsafeFolderError(f"{shown} can be written to by other users")
        if status.st_mode & 0o077:
            foreign = next((path for path in folder.iterdir() if not _is_ours(path.name)), None)
            if foreign is not None:
                raise UnsafeFolderError(
                    f"{shown} is open to other users and holds {shown_path(foreign)}, no compiled code"
                )
            folder.chmod(0o700)
    except OSError as error:
        raise UnsafeFolderError(f"{shown} cannot be used: {reason(error)}") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise UnsafeFolderError(f"{shown} is read-only")


def _is_ours(name: str) -> bool:
    """Whether a cache has something of this name in its folder."""
    return name == _STAMP or name.startswith(PARTIAL_PREFIX) or _SHARD.fullmatch(name) is not None


def usual_folder() -> Path:
    """``CHAINRULE_CACHE``, or the folder for caches of this system."""
    chosen = os.environ.get("CHAINRULE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/chainrule/cpu").expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return root / "chainrule" / "cpu"


def open_cache() -> tuple[Cache, str | None]:
    """The cache of this user and None; or one that lasts as long as this process, and why the usual one is not used."""
    try:
        return _opened(usual_folder()), None
    except (UnsafeFolderError, RuntimeError) as error:  # RuntimeError: the user has no home
        reason = f"compiled code is not kept: {error}"
        say_once(f"{reason}; set CHAINRULE_CACHE to a folder of yours")
        return temporary_cache(), reason


@cache
def _opened(folder: Path) -> Cache:
    return Cache(folder)


@cache
def temporary_cache() -> Cache:
    """A cache in a new folder, which is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="chainrule-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not in forked children
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Cache(folder)
