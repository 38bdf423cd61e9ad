"""Finding a C compiler that works, whatever the environment says."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chainrule.engines.cpu import toolchain as toolchains
from chainrule.engines.cpu.loading import load_library
from chainrule.engines.cpu.toolchain import CompilerError, NoToolchain, Toolchain, examine, find_toolchain

ADD = "CR_EXPORT double add(double x, double y) { return x + y; }"

Script = Callable[[str], str]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    for name in ("CHAINRULE_CC", "CC", "CFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def real() -> Toolchain:
    found = find_toolchain()
    assert isinstance(found, Toolchain), found
    return found


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes a compiler out of the lines of a shell script; ``$REAL`` in them is one that works."""

    def write(lines: str) -> str:
        found = examine_first()
        file = tmp_path / "compiler"
        file.write_text(f"#!/bin/sh\n{lines.replace('$REAL', found)}\n")
        file.chmod(0o755)
        return str(file)

    return write


def examine_first() -> str:
    found = find_toolchain()
    assert isinstance(found, Toolchain)
    return " ".join(found.command)


def added(library: ctypes.CDLL) -> float:
    library.add.restype = ctypes.c_double
    return float(library.add(ctypes.c_double(1.5), ctypes.c_double(2.25)))


def reason_without(monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found = find_toolchain()
    assert isinstance(found, NoToolchain)
    return found.reason


# --- finding ----------------------------------------------------------------------------------------------------------


def test_a_compiler_is_found_here_and_says_what_it_can(real: Toolchain) -> None:
    assert real.version
    assert real.vector_bytes in (16, 32, 64)
    assert Path(real.command[0]).is_absolute()
    assert added(load_library(ADD, name="addition")) == 3.75


@pytest.mark.parametrize(("target", "width"), [("avx2", 32), ("sse2", 16)])
def test_code_for_narrower_processors(target: str, width: int) -> None:
    found = find_toolchain(target)
    if isinstance(found, NoToolchain):
        pytest.skip(found.reason)
    assert found.vector_bytes == width
    assert added(load_library(ADD, name="addition", toolchain=found)) == 3.75


STRIDES = """
static __attribute__((noinline)) void fill(long *restrict to, long k) {
    for (; k >= 0; k--)
        for (long j = 0; j < 4; j++)
            for (long l = 0; l < 4; l++) to[k * 28 + j * 4 + k] = to[j];
}
CR_EXPORT void filled(long *to, long k) { fill(to, k); }
"""


@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3"])
def test_functions_whose_stores_have_several_strides_are_called(level: str) -> None:
    """Without its flag against that, gcc 12 makes the stores offsets from address 0, and believes that they write nothing."""
    found = find_toolchain()
    assert isinstance(found, Toolchain)
    strict = replace(found, flags=(*found.flags, level))
    values = (ctypes.c_long * 200)(*range(1, 201))
    load_library(STRIDES, name="strides", toolchain=strict).filled(values, ctypes.c_long(5))
    expected = [*range(1, 201)]
    for k in range(5, -1, -1):
        for j in range(4):
            expected[k * 28 + j * 4 + k] = expected[j]
    assert list(values) == expected


@pytest.mark.parametrize("target", ["native", "avx2", "sse2"])
def test_no_compiler_but_clang_may_leave_out_stores_to_the_address_0(target: str) -> None:
    found = find_toolchain(target)
    if isinstance(found, NoToolchain):
        pytest.skip(found.reason)
    assert ("-fno-delete-null-pointer-checks" in found.flags) == ("clang" not in found.features)


def test_the_second_process_does_not_examine_the_compiler_again(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchains._find.cache_clear()
    first = find_toolchain()

    def examined_again(*_: object) -> Toolchain:
        raise AssertionError("examined again")

    monkeypatch.setattr(toolchains, "examine", examined_again)
    toolchains._find.cache_clear()
    assert find_toolchain() == first


def test_no_compiler_has_a_reason_that_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = reason_without(monkeypatch, PATH=str(tmp_path))
    assert reason == "no C compiler (cc, gcc, clang) was found; install one, or: pip install ziglang"
    with pytest.raises(CompilerError, match="no C compiler"):
        load_library(ADD, name="addition")


def test_an_empty_setting_means_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason_without(monkeypatch, CHAINRULE_CC="") == "CHAINRULE_CC is empty, which means no compiler"


def test_the_named_compiler_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = reason_without(monkeypatch, CHAINRULE_CC="/nowhere/cc")
    assert reason == "the compiler /nowhere/cc cannot be run: No such file or directory"


def test_a_broken_cc_gives_way_to_one_that_works(real: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc -O7")
    assert find_toolchain() == real


def test_cc_may_have_arguments(real: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"'{real.command[0]}' -DMEANING=42")
    found = find_toolchain()
    assert isinstance(found, Toolchain)
    assert found.command == (real.command[0], "-DMEANING=42")
    assert load_library("CR_EXPORT int meaning(void) { return MEANING; }", name="meaning").meaning() == 42


def test_the_zig_package_serves_where_there_is_nothing_else(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = script('exec $REAL "$@"')
    package = tmp_path / "packages" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        f"import os, sys\nassert sys.argv[1] == 'cc'\nos.environ['PATH'] = {str(Path('/usr/bin'))!r}\n"
        f"os.execv({compiler!r}, [{compiler!r}, *sys.argv[2:]])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_toolchain()
    assert isinstance(found, Toolchain), found
    assert found.command == (sys.executable, "-m", "ziglang", "cc")


# --- compilers that do not work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("echo 'licence error: expired' >&2; exit 1", "licence error: expired"),
        ("exit 0", "could not|wrote no library"),
        ('case $* in *-shared*) ;; *) exec $REAL "$@";; esac', "wrote no library"),
        (
            'case $* in *-shared*) for a; do [ "$p" = -o ] && echo junk > "$a"; p=$a; done;; *) exec $REAL "$@";; esac',
            "cannot be loaded",
        ),
        ('case $* in *-shared*) kill -9 $$;; *) exec $REAL "$@";; esac', "was killed (SIGKILL)"),
        ("sleep 60", "took longer"),
    ],
)
def test_a_compiler_that_does_not_work_is_not_used(
    lines: str, reason: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = script(lines)
    monkeypatch.setattr(toolchains, "LONGEST_COMPILATION", 2.0)
    said = reason_without(monkeypatch, CHAINRULE_CC=compiler)
    assert any(part in said for part in reason.split("|")), said
    assert "\n" not in said


def test_a_failed_compilation_says_what_the_compiler_said() -> None:
    with pytest.raises(CompilerError, match=r"failed while compiling my step: my_step\.c:2:\d+: error: .*nonsense"):
        load_library("int fine;\nint wrong(void) { return nonsense; }", name="my step")


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_terminal_does_not_reach_the_compiler(tmp_path: Path) -> None:
    """It goes to every process of the group in front, and a training goes on to the end of its step."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!{sys.executable} -SE\nimport os\nprint(os.getpgid(0))")
    compiler.chmod(0o755)
    group = int(toolchains._run([str(compiler)], tmp_path, "asking"))
    assert group != os.getpgid(0)


@pytest.mark.parametrize("parts", [1, 3])
def test_an_interrupted_compilation_leaves_no_compiler_behind(
    parts: int, tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the compiler nor what it has started: each of them would make a file after a second."""
    monkeypatch.setattr(toolchains, "usable_processors", lambda: 4)
    compiler = script(f"touch {tmp_path}/began-$$; (sleep 1; touch {tmp_path}/ended-$$) & wait")
    toolchain = Toolchain((compiler,), "1", (), frozenset(), "native")

    def interrupt() -> None:
        while len(list(tmp_path.glob("began-*"))) < parts:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        waiting.start()
        toolchain.compile(["int x;"] * parts, tmp_path / "library.so")
    assert time.monotonic() - began < 0.9
    waiting.join()
    time.sleep(1.2)
    assert len(list(tmp_path.glob("began-*"))) == parts
    assert not list(tmp_path.glob("ended-*"))


# --- hostile settings -------------------------------------------------------------------------------------------------

_INJECTIONS = ["; touch {0}", "$(touch {0})", "`touch {0}`", "| touch {0}", "&& touch {0}", "\n touch {0}", "> {0}"]


@pytest.mark.parametrize("injection", _INJECTIONS)
@pytest.mark.parametrize("variable", ["CHAINRULE_CC", "CC", "CFLAGS"])
def test_settings_never_reach_a_shell(
    injection: str, variable: str, real: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    prefix = "" if variable == "CFLAGS" else real.command[0]
    monkeypatch.setenv(variable, prefix + injection.format(victim))
    find_toolchain()
    assert not victim.exists()


def test_settings_that_cannot_be_split_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason_without(monkeypatch, CFLAGS="-DX='") == "CFLAGS cannot be split into arguments: No closing quotation"


def test_flags_of_the_user_are_used_and_named_when_they_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-DMEANING=43")
    assert load_library("CR_EXPORT int meaning(void) { return MEANING; }", name="meaning").meaning() == 43
    assert "-fnot-a-flag" in reason_without(monkeypatch, CFLAGS="-fnot-a-flag")


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffinite-math-only"])
def test_flags_cannot_take_nan_and_denormals_away(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", flag)
    library = load_library("CR_EXPORT int is_nan(double x) { return x != x; }", name="nan")
    assert library.is_nan(ctypes.c_double(np.nan)) == 1
    assert np.float64(5e-324) * np.float64(1.0) != 0


@pytest.mark.parametrize(
    "name", ['"; system("false"); "', "*/ #error", "a\nb", "\\", "", "../../x", "%s" * 50, "é\ud800"]
)
def test_names_are_only_names(name: str) -> None:
    assert added(load_library(ADD, name=name)) == 3.75


def test_examining_says_when_there_is_nothing_there() -> None:
    with pytest.raises(CompilerError, match="cannot be run"):
        examine(("/nowhere/cc",))
