"""Compiled libraries on the disk: private, whole or absent, made once, and never used when damaged."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainrule.engines.cpu import cache as caches
from chainrule.engines.cpu import loading
from chainrule.engines.cpu.cache import Cache, UnsafeFolderError, entry_key, make_private, open_cache, usual_folder
from chainrule.engines.cpu.loading import load_library
from chainrule.engines.cpu.toolchain import CompilerError, Toolchain, find_toolchain

SOURCE = "CR_EXPORT int answer(void) { return 42; }"
LOAD = f"""
from chainrule.engines.cpu.loading import load_library
assert load_library({SOURCE!r}, name="answer").answer() == 42
"""

SIXTEEN_TIMES = f"""
import os
import chainrule.engines.cpu.loading
ready, start = os.pipe()
children = []
for _ in range(16):
    child = os.fork()
    if not child:
        os.close(start)
        os.read(ready, 1)  # ends when nobody can write any more
{textwrap.indent(LOAD.strip(), " " * 8)}
        os._exit(0)
    children.append(child)
os.close(start)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 16
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    chosen = tmp_path / "cache"
    monkeypatch.setenv("CHAINRULE_CACHE", str(chosen))
    return chosen


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a new process."""
    monkeypatch.setattr(loading, "_loaded", {})
    caches._opened.cache_clear()
    yield
    caches._opened.cache_clear()


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that writes a line to this file whenever it makes a library of the source of these tests."""
    log = tmp_path / "log"
    monkeypatch.setenv("CHAINRULE_CC", compiler(tmp_path, f'case "$*" in *made.c*) echo once >> "{log}";; esac'))
    return log


def compiler(tmp_path: Path, lines: str) -> str:
    found = find_toolchain()
    assert isinstance(found, Toolchain), found
    file = tmp_path / "compiler"
    file.write_text(f'#!/bin/sh\n{lines}\nexec {" ".join(found.command)} "$@"\n')
    file.chmod(0o755)
    return str(file)


def process(program: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)


def succeed(process: subprocess.Popen[str]) -> None:
    complaint = process.communicate(timeout=120)[1]
    assert process.returncode == 0, complaint


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.so"))


def answer(path: Path) -> int:
    return int(ctypes.CDLL(str(path)).answer())


# --- entries ----------------------------------------------------------------------------------------------------------


def test_the_same_source_is_compiled_once(folder: Path, counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_library(SOURCE, name="first")
    compiled = counted.read_text()
    monkeypatch.setattr(loading, "_loaded", {})
    assert load_library(SOURCE, name="first").answer() == 42
    assert counted.read_text() == compiled
    load_library(SOURCE + "\n", name="first")
    assert counted.read_text() == compiled + "once\n"


def test_entries_depend_on_source_flags_compiler_and_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_toolchain()
    assert isinstance(found, Toolchain)
    seen = {entry_key(SOURCE, found.identity)}
    monkeypatch.setenv("CFLAGS", "-DOTHER")
    other = find_toolchain()
    assert isinstance(other, Toolchain)
    seen.add(entry_key(SOURCE, other.identity))
    monkeypatch.setattr("chainrule.engines.cpu.toolchain.processor_identity", lambda: "another processor")
    seen.add(entry_key(SOURCE, found.identity))
    seen.add(entry_key(SOURCE + " ", found.identity))
    assert len(seen) == 4


def test_keys_do_not_run_together() -> None:
    assert entry_key("ab", "c") != entry_key("a", "bc")


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "empty", "link", "folder"])
def test_a_damaged_file_is_made_again_and_never_loaded(damage: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    path = cache.obtain("key", ".so", lambda made: made.write_bytes(b"content" * 100) and None)
    if damage == "flip a bit":
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        os.truncate(path, 99)
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        path.rename(tmp_path / "elsewhere")
        if damage == "link":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            path.mkdir()
    assert cache.find("key", ".so") is None
    again = cache.obtain("key", ".so", lambda made: made.write_bytes(b"content" * 100) and None)
    assert again.read_bytes() == b"content" * 100
    assert not again.is_symlink()


def test_a_damaged_library_is_compiled_again(folder: Path, counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeed(process(LOAD))
    compiled = counted.read_text()
    for path in libraries(folder):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    succeed(process(LOAD))
    assert counted.read_text() == compiled * 2


def test_a_failing_make_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise CompilerError("no")

    with pytest.raises(CompilerError):
        cache.obtain("key", ".so", fail)
    assert cache.find("key", ".so") is None
    assert [path.name for path in cache.folder.rglob("*") if path.is_file()] == ["cleaned", "lock"]


def test_old_entries_and_leftovers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    keys = {name: entry_key(name) for name in ("unused", "used")}
    paths = {name: cache.obtain(k, ".so", lambda made: made.write_bytes(b"x") and None) for name, k in keys.items()}
    (cache.folder / "tv").mkdir()
    foreign = cache.folder / "tv" / "a-film.mkv"
    foreign.touch()
    leftover = cache.folder / f"{caches.PARTIAL_PREFIX}0123"
    leftover.mkdir()
    (leftover / "half.so").touch()
    long_ago = time.time() - 61 * 24 * 3600
    for path in [*paths.values(), leftover, foreign, cache.folder / "cleaned"]:
        os.utime(path, (long_ago, long_ago))
    assert cache.find(keys["used"], ".so")  # marks it as used
    Cache(cache.folder)
    assert not paths["unused"].exists()
    assert not leftover.exists()
    assert paths["used"].exists()
    assert foreign.exists()  # nobody knows what it is doing here, but we have not put it there


# --- many at once, and killed half-way --------------------------------------------------------------------------------


def test_sixteen_processes_want_the_same_library_at_once(folder: Path, counted: Path) -> None:
    """They are forked by one that has imported everything, so that all of them begin together."""
    succeed(process(SIXTEEN_TIMES))
    assert counted.read_text() == "once\n" * 2  # it, and the runtime
    assert len(libraries(folder)) == 2
    assert not list(folder.glob(f"{caches.PARTIAL_PREFIX}*"))


def test_sixteen_threads_want_the_same_entry_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    made: list[Path] = []
    found: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        time.sleep(0.1)
        path.write_bytes(b"content")

    threads = [threading.Thread(target=lambda: found.append(cache.obtain("key", ".so", make))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert len(found) == 16


def test_a_compiler_killed_half_way_does_no_harm(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    half = 'for a; do [ "$p" = -o ] && out=$a; p=$a; done; echo half > "$out"; kill -9 $$'
    victim.touch()
    killed = compiler(tmp_path, f'case "$*" in *made.c*) [ -e "{victim}" ] && {{ {half}; }};; esac')
    monkeypatch.setenv("CHAINRULE_CC", killed)
    with pytest.raises(CompilerError, match="was killed \\(SIGKILL\\) while compiling victim"):
        load_library(SOURCE + "//", name="victim")
    assert not libraries(folder) or all(path.read_bytes() != b"half\n" for path in libraries(folder))
    victim.unlink()
    assert load_library(SOURCE + "//", name="victim").answer() == 42


def test_a_process_killed_while_it_compiles_does_not_hold_up_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, begun = tmp_path / "slow", tmp_path / "begun"
    slow.touch()
    lines = f'case "$*" in *made.c*) [ -e "{slow}" ] && {{ echo $$ > "{begun}"; exec sleep 60; }};; esac'
    monkeypatch.setenv("CHAINRULE_CC", compiler(tmp_path, lines))
    running = process(LOAD)
    deadline = time.monotonic() + 60
    while not (begun.exists() and begun.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.kill()
    running.communicate()
    slow.unlink()
    start = time.monotonic()
    succeed(process(LOAD))
    assert time.monotonic() - start < 30
    os.kill(int(begun.read_text()), signal.SIGKILL)
    assert len(libraries(folder)) == 2


def test_a_lock_that_is_never_released_holds_up_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    monkeypatch.setattr(caches, "LONGEST_WAIT", 0.2)

    def make(path: Path) -> None:
        if not path.parent.parent.joinpath("nested").exists():
            path.parent.parent.joinpath("nested").touch()
            cache.obtain("key", ".so", make)  # while this call holds the lock
        path.write_bytes(b"content")

    assert cache.obtain("key", ".so", make).read_bytes() == b"content"


# --- the folder -------------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Cache(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a" / "b") == 0o700


def test_a_folder_that_others_can_read_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    make_private(tmp_path / "cache")
    assert mode(tmp_path / "cache") == 0o700
    Cache(tmp_path / "cache").obtain(entry_key("x"), ".so", lambda made: made.write_bytes(b"x") and None)
    (tmp_path / "cache").chmod(0o755)
    make_private(tmp_path / "cache")
    assert mode(tmp_path / "cache") == 0o700


def test_a_folder_with_other_things_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UnsafeFolderError, match=r"is open to other users and holds .*thesis\.tex, no compiled code"):
        make_private(tmp_path)
    assert mode(tmp_path) == 0o755


@pytest.mark.parametrize("open_to", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(open_to: int, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(open_to)
    with pytest.raises(UnsafeFolderError, match="can be written to by other users"):
        Cache(folder)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(UnsafeFolderError, match="belongs to another user"):
        Cache(folder)


def test_a_link_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(UnsafeFolderError, match="is not a folder"):
            Cache(tmp_path / name)
    with pytest.raises(UnsafeFolderError, match="cannot be used"):
        Cache(tmp_path / "file" / "cache")


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:  # who may write everywhere
        monkeypatch.setattr(os, "access", lambda path, wanted: not wanted & os.W_OK)
    with pytest.raises(UnsafeFolderError, match="is read-only"):
        Cache(folder)
    folder.chmod(0o700)


def test_without_a_usable_folder_libraries_live_as_long_as_the_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    cache, notice = open_cache()
    assert notice == f"compiled code is not kept: {folder} can be written to by other users"
    assert mode(cache.folder) == 0o700
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    succeed(process(f"{LOAD}\nimport os\nassert os.listdir({str(place)!r})"))
    assert not list(place.iterdir())
    assert not list(folder.iterdir())


def test_a_full_disk_does_not_stop_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_library(SOURCE, name="before")

    def full(self: Cache, key: str, suffix: str, make: object) -> Path:
        if self.folder == folder:
            raise OSError(28, "No space left on device")
        return real(self, key, suffix, make)  # type: ignore[arg-type]

    real = Cache.obtain
    monkeypatch.setattr(Cache, "obtain", full)
    monkeypatch.setattr(loading, "_loaded", {})
    assert load_library(SOURCE + "//full", name="after").answer() == 42


@pytest.mark.parametrize("left", [60_000, 8_000, 0])
def test_a_compiler_that_finds_the_disk_full_writes_elsewhere(
    left: int, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE", str(small_disk / "cache"))
    open_cache()
    full = os.statvfs(small_disk)
    (small_disk / "filling").write_bytes(b"x" * max(0, full.f_bavail * full.f_frsize - left))
    succeed(process(LOAD))


def test_where_there_is_no_room_at_all_the_reason_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading.load_runtime()

    def full(self: Cache, key: str, suffix: str, make: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cache, "obtain", full)
    with pytest.raises(CompilerError, match=r"^compiling answer failed: the disk is full$"):
        load_library(SOURCE, name="answer")


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path))
    assert usual_folder() == tmp_path
    monkeypatch.delenv("CHAINRULE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "darwin":
        return
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG specification
    assert usual_folder() == tmp_path / ".cache" / "chainrule" / "cpu"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert usual_folder() == tmp_path / "xdg" / "chainrule" / "cpu"


def test_a_discarded_entry_is_made_anew(tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.obtain("ab12", ".txt", lambda path: path.write_text("old"))
    cache.discard("ab12", ".txt")
    assert cache.find("ab12", ".txt") is None
    assert cache.obtain("ab12", ".txt", lambda path: path.write_text("new")).read_text() == "new"
