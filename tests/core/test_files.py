"""A file is wholly written or not touched, whatever goes wrong; JSON gives back exactly what was written."""

from __future__ import annotations

import io
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.core import files
from chainrule.core.errors import ConfigError, RunError
from chainrule.core.files import (
    PARTIAL_PREFIX,
    atomic_directory,
    atomic_write,
    from_json,
    read_json,
    remove_abandoned,
    remove_partial,
    to_json,
    write_bytes,
    write_json,
    write_text,
)

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions, limits and devices")


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- one file ---------------------------------------------------------------------------------------------------------


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "über\r\n")
    assert file.read_bytes() == "über\r\n".encode()
    write_bytes(file, b"new")
    assert file.read_bytes() == b"new"
    assert names_in(tmp_path) == ["a.txt"]


def test_the_old_content_stays_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with atomic_write(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(1)])
def test_an_exception_in_the_block_leaves_no_trace(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(file) as stream:
        stream.write(b"new")
        raise error
    assert file.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_an_error_about_another_file_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), atomic_write(tmp_path / "a"):
        (tmp_path / "elsewhere" / "absent").read_bytes()
    assert names_in(tmp_path) == []


def test_a_text_stream_may_be_laid_over_the_file_and_closed(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as stream, io.TextIOWrapper(stream, encoding="utf-16", newline="") as text:
        text.write("x\n")
    assert (tmp_path / "a").read_text(encoding="utf-16") == "x\n"


@posix_only
def test_permissions_are_those_of_the_old_file_or_of_the_umask(tmp_path: Path) -> None:
    private, ordinary = tmp_path / "private", tmp_path / "ordinary"
    private.write_bytes(b"")
    private.chmod(0o600)
    old_mask = os.umask(0o027)
    try:
        write_bytes(private, b"x")
        write_bytes(ordinary, b"x")
    finally:
        os.umask(old_mask)
    assert private.stat().st_mode & 0o777 == 0o600
    assert ordinary.stat().st_mode & 0o777 == 0o640


@posix_only
def test_a_symbolic_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    write_bytes(link, b"through")
    assert link.is_symlink()
    assert target.read_bytes() == b"through"


@posix_only
def test_a_device_is_written_to_directly() -> None:
    write_bytes(Path(os.devnull), b"x")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (None, "absent/a.txt", "the folder does not exist"),
        (None, ".", "it is a folder"),
        ("plain", "plain/a.txt", "a part of its path is a file"),
    ],
)
def test_impossible_places_are_named(tmp_path: Path, make: str | None, name: str, reason: str) -> None:
    if make:
        (tmp_path / make).write_bytes(b"")
    with pytest.raises(RunError, match=reason) as caught:
        write_bytes(tmp_path / name, b"x")
    assert str(tmp_path / name) in str(caught.value)
    assert PARTIAL_PREFIX not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_stream_without_room_is_one_clear_error() -> None:
    with pytest.raises(RunError, match=r"^cannot write /dev/full: the disk is full$"):
        write_bytes(Path("/dev/full"), b"x" * 100_000)


def test_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    file = small_disk / "weights"
    write_bytes(file, b"old" * 1000)
    for size in (300_000, 3_000_000):
        with pytest.raises(RunError, match=r"weights: the disk is full$"):
            write_bytes(file, b"n" * size)
        assert file.read_bytes() == b"old" * 1000
        assert names_in(small_disk) == ["weights"]
    with pytest.raises(RunError, match="the disk is full"), atomic_directory(small_disk / "checkpoint") as folder:
        write_bytes(folder / "weights", b"n" * 300_000)
    assert names_in(small_disk) == ["weights"]


def test_a_read_only_file_system_is_one_clear_error(small_disk: Path) -> None:
    write_bytes(small_disk / "a", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match="the file system is read-only"):
        write_bytes(small_disk / "a", b"new")
    assert (small_disk / "a").read_bytes() == b"old"


WRITE_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from chainrule.core.errors import RunError
from chainrule.core.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_bytes(Path(sys.argv[1]), b"n" * 1_000_000)
except RunError as error:
    print(error)
"""


@posix_only
def test_the_file_size_limit_keeps_the_old_file(tmp_path: Path, run_script: Any) -> None:
    file = tmp_path / "weights"
    write_bytes(file, b"old")
    outcome = run_script(WRITE_UNDER_A_LIMIT, file)
    assert outcome.stderr == ""
    assert outcome.stdout.startswith(f"cannot write {file}: it would grow beyond the file-size limit")
    assert file.read_bytes() == b"old"
    assert names_in(tmp_path) == ["weights"]


WRITE_AS_NOBODY = """
import os, sys
from pathlib import Path
from chainrule.core.errors import RunError
from chainrule.core.files import atomic_directory, write_bytes
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    write_bytes(Path(sys.argv[1], "weights"), b"new")
except RunError as error:
    print(error)
try:
    with atomic_directory(Path(sys.argv[1], "checkpoint")):
        pass
except RunError as error:
    print(error)
"""


@posix_only
def test_a_folder_without_write_permission_is_one_clear_error(tmp_path: Path, run_script: Any) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    write_bytes(folder / "weights", b"old")
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents):  # the other user must be able to get as far as the folder itself
        if parent.stat().st_uid == os.getuid() == 0 and "pytest" in parent.name:
            parent.chmod(0o755)
    outcome = run_script(WRITE_AS_NOBODY, folder)
    folder.chmod(0o755)
    assert outcome.stderr == ""
    assert outcome.stdout.splitlines() == [
        f"cannot write {folder}/weights: permission was denied",
        f"cannot write {folder}/checkpoint: permission was denied",
    ]
    assert (folder / "weights").read_bytes() == b"old"


# --- sudden death -----------------------------------------------------------------------------------------------------

WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from chainrule.core.files import atomic_directory, atomic_write
folder = Path(sys.argv[1])
for round in range(10**9):
    letter = b"abcdefgh"[round % 8 : round % 8 + 1]
    with atomic_write(folder / "file") as stream:
        for _ in range(50):
            stream.write(letter * 10_000)
    with atomic_directory(folder / str(round)) as made:
        for name in "xyz":
            (made / name).write_bytes(letter * 10_000)
    if round == 0:
        print("begun", flush=True)
"""


@posix_only
def test_a_killed_process_leaves_whole_files_only(tmp_path: Path) -> None:
    chance = random.Random(0)
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", WRITE_UNTIL_KILLED, folder], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"begun\n"
                time.sleep(chance.uniform(0, 0.1))
            finally:
                process.kill()
        content = (folder / "file").read_bytes()
        assert content == content[:1] * 500_000
        remove_partial(folder)
        assert not [name for name in names_in(folder) if name.startswith(PARTIAL_PREFIX)]
        for made in (entry for entry in folder.iterdir() if entry.is_dir()):
            assert names_in(made) == ["x", "y", "z"]
            assert len({(made / name).read_bytes() for name in "xyz"}) == 1


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{PARTIAL_PREFIX}1").write_bytes(b"")
    (tmp_path / f"{PARTIAL_PREFIX}2").mkdir()
    (tmp_path / f"{PARTIAL_PREFIX}2" / "inside").write_bytes(b"")
    (tmp_path / "kept").write_bytes(b"")
    assert remove_partial(tmp_path) == 2
    assert names_in(tmp_path) == ["kept"]
    assert remove_partial(tmp_path) == 0


_MAKES_AND_WAITS = """
import sys, time
from pathlib import Path
from chainrule.core.files import NewDirectory

new = NewDirectory(Path(sys.argv[1]))
(new.here / "a").write_text("1")
print(new.here.name, flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_has_left_for_a_place_is_removed(tmp_path: Path) -> None:
    """While it lives, its folder stays; and so do those for other places, files, and folders under links."""
    place = tmp_path / "run"
    command = [sys.executable, "-c", _MAKES_AND_WAITS]
    processes = [
        subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, text=True)
        for path in (place, place, tmp_path / "other")
    ]
    try:
        names = [process.stdout.readline().strip() for process in processes if process.stdout is not None]
        begin = names[0].removeprefix(PARTIAL_PREFIX).partition("-")[0]
        (tmp_path / f"{PARTIAL_PREFIX}{begin}-file").write_text("1")
        (tmp_path / f"{PARTIAL_PREFIX}{begin}-link").symlink_to(tmp_path / names[0])
        everything = names_in(tmp_path)
        remove_abandoned(place)
        assert names_in(tmp_path) == everything
        for process in (processes[0], processes[2]):
            process.kill()
            process.wait()
        remove_abandoned(place)
        assert set(names_in(tmp_path)) == {*everything} - {names[0]}
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_new_folder_that_is_taken_for_an_abandoned_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making and locking it another process may come."""
    place, lock, seen = tmp_path / "run", files._lock, []

    def late(folder: Path) -> int | None:
        seen.append(folder)
        if len(seen) == 1:
            monkeypatch.setattr(files, "_lock", lock)
            remove_abandoned(place)
            monkeypatch.setattr(files, "_lock", late)
        return lock(folder)

    monkeypatch.setattr(files, "_lock", late)
    with atomic_directory(place) as folder:
        assert [each.exists() for each in seen] == [False, True]
        write_text(folder / "a", "1")
    assert names_in(tmp_path) == ["run"]


# --- one folder -------------------------------------------------------------------------------------------------------


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "run") as folder:
        write_text(folder / "a", "1")
        (folder / "deeper").mkdir()
        write_text(folder / "deeper" / "b", "2")
        assert not (tmp_path / "run").exists()
    assert (tmp_path / "run" / "deeper" / "b").read_text() == "2"
    assert names_in(tmp_path) == ["run"]


def test_a_folder_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "run") as folder:
        write_text(folder / "a", "1")
        raise ZeroDivisionError
    assert names_in(tmp_path) == []


def test_an_error_inside_is_told_with_the_place_where_the_file_was_going_to_be(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, atomic_directory(tmp_path / "run") as folder:
        write_text(folder / "absent" / "a", "1")
    assert str(caught.value) == f"cannot write {tmp_path}/run/absent/a: the folder does not exist"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_there_is_replaced_only_by_force(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "folder":
        path.mkdir()
        write_text(path / "old", "1")
    else:
        write_text(path, "1")
    with pytest.raises(RunError, match=r"run exists already; .*--force"), atomic_directory(path):
        raise AssertionError("the block must not run")
    with pytest.raises(ZeroDivisionError), atomic_directory(path, force=True):
        raise ZeroDivisionError
    assert (path / "old" if kind == "folder" else path).read_text() == "1"
    with atomic_directory(path, force=True) as folder:
        write_text(folder / "new", "2")
    assert names_in(path) == ["new"]
    assert names_in(tmp_path) == ["run"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with atomic_directory(tmp_path / "run") as folder:
        write_text(folder / "a", "1")
    assert names_in(tmp_path / "run") == ["a"]


def test_a_folder_filled_by_another_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"), atomic_directory(tmp_path / "run") as folder:
        write_text(folder / "a", "1")
        (tmp_path / "run").mkdir()
        write_text(tmp_path / "run" / "theirs", "2")
    assert names_in(tmp_path / "run") == ["theirs"]
    assert names_in(tmp_path) == ["run"]


# --- JSON -------------------------------------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
KEYS = st.text(st.characters(), max_size=5) | st.sampled_from(["$float", "$object"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, 0.0 from −0.0, the orders of keys, and finds NaN equal to itself."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and repr(one) == repr(other)


@given(JSON)
def test_json_comes_back_exactly(obj: Any) -> None:
    text = to_json(obj)
    assert same(from_json(text.encode("utf-8")), obj)


def test_a_json_file_comes_back_exactly(tmp_path: Path) -> None:
    obj = {"z": [0.1, 1e-310, -0.0, float("nan"), float("-inf")], "a": "über \ud800", "n": 2**70}
    write_json(tmp_path / "a.json", obj)
    assert same(read_json(tmp_path / "a.json"), obj)


def test_json_text_is_readable_standard_json() -> None:
    assert to_json({"größe": [1.5, True, None, float("inf")]}) == (
        '{\n  "größe": [\n    1.5,\n    true,\n    null,\n    {\n      "$float": "inf"\n    }\n  ]\n}'
    )


def test_numpy_scalars_and_tuples_are_accepted() -> None:
    obj = {"a": (np.float32(0.1), np.int64(3), np.bool_(True), np.float64("nan"))}
    assert same(from_json(to_json(obj)), {"a": [float(np.float32(0.1)), 3, True, float("nan")]})


@pytest.mark.parametrize("obj", [{1: 2}, {"a": {1, 2}}, [b"x"], np.zeros(2), {"a": np.complex64(1)}, {"p": Path("x")}])
def test_what_json_cannot_hold_is_refused_before_writing(tmp_path: Path, obj: object) -> None:
    with pytest.raises(TypeError, match="JSON"):
        write_json(tmp_path / "a.json", obj)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1', "line 1, column 8"),
        (b'{\n "a": tru}', "line 2, column 7"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": 1, "a": 2}', "key 'a' is there twice"),
        (b"[NaN]", "NaN is not a number"),
        (b"[1e999]", "too large"),
        (b'["\xff"]', "byte 2 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"$float": 3}', "cannot stand behind"),
        (b'{"$object": "x\\u001b"}', r"x\\x1b cannot stand behind"),
        (b"9" * 10_000, "Exceeds the limit"),
    ],
)
def test_damaged_json_is_one_clear_error(tmp_path: Path, data: bytes, problem: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_json(file, error=ConfigError)
    assert str(file) in str(caught.value)
    assert str(caught.value).isprintable()


def test_missing_large_and_unreadable_json_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.json does not exist"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(RunError, match="it is a folder"):
        read_json(tmp_path)
    (tmp_path / "large.json").write_text("[1, 2, 3]")
    with pytest.raises(RunError, match=r"large\.json is larger than 8 bytes"):
        read_json(tmp_path / "large.json", largest=8)
