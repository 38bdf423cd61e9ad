"""The C compiler of this machine: which one, and with which flags it makes code for this processor.

Nothing here goes through a shell: ``CC`` and ``CFLAGS`` are split into arguments, and are only ever arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from chainrule.core.errors import ChainruleError
from chainrule.core.names import escape_terminal
from chainrule.engines.cpu.cache import entry_key, open_cache
from chainrule.engines.cpu.processor import processor_identity, usable_processors

LONGEST_COMPILATION = 600.0  # seconds

# Between these two stand the flags of the user, which may change how code is optimised and for which processor, but not
# what numbers mean and what a library is.
_DEFAULTS = ("-std=gnu11", "-O2", "-ftree-vectorize")
_GUARDS = ("-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w", "-fPIC", "-pthread")
# gcc 12 may make `to[a * i + b * j]` in a loop an offset from address 0. That nothing lies there it takes for a promise, so that a
# function with no other stores writes nothing, as it thinks, and calls of it are left out; without the promise they are not.
_WRITES_ARE_KEPT = "-fno-delete-null-pointer-checks"
# Even followed by -fno-fast-math, some compilers link code for these that makes the whole process flush denormals to 0.
_REFUSED = frozenset({"-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-mdaz-ftz", "-shared", "-c", "-S", "-E"})

# Ways to name a processor; the first that the compiler understands is taken.
TARGETS = {
    "native": (("-march=native",), ("-mcpu=native",), ()),
    "avx2": (("-march=x86-64-v3",), ("-march=x86_64_v3",)),
    "sse2": (("-march=x86-64",), ("-march=x86_64",)),
}

_FEATURES = {
    "__AVX512F__": "avx512",
    "__AVX2__": "avx2",
    "__AVX__": "avx",
    "__FMA__": "fma",
    "__SSE4_1__": "sse4.1",
    "__SSE2__": "sse2",
    "__ARM_NEON": "neon",
    "__ARM_FEATURE_FMA": "fma",
    "__clang__": "clang",
}

# What the C library says of these errors, which compilers repeat.
_NO_ROOM = ("No space left on device", "Disk quota exceeded")
_PROBE = """
typedef float four __attribute__((vector_size(16)));
static _Thread_local int kept;
__attribute__((visibility("default"))) int cr_probe(int n) {
    four sum = {0, 0, 0, 0}, one = {1, 2, 3, 4};
    for (int i = 0; i < n; i++) sum += one;
    kept += n;
    return (int)__builtin_sqrtf(sum[0] * sum[0]) + (int)sum[3] + __atomic_add_fetch(&kept, 1, __ATOMIC_SEQ_CST);
}
"""


class CompilerError(ChainruleError, RuntimeError):
    """The compiler did not turn a generated source into a library; the message has its first complaint."""


class NoRoomError(CompilerError):
    """The disk that the compiler wrote to is full, or the user's share of it."""


@dataclass(frozen=True)
class NoToolchain:
    """That there is no C compiler to use, and why: one sentence for the notice that the reference engine runs instead."""

    reason: str


@dataclass(frozen=True)
class Toolchain:
    """A C compiler that was seen to work.

    ``flags`` are all of its arguments but the files; ``features`` says what the code it makes may use: ``avx512``,
    ``avx2``, ``avx``, ``fma``, ``sse4.1``, ``sse2``, ``neon``, and ``clang`` if it is one.
    """

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    features: frozenset[str]
    target: str = "native"

    @property
    def vector_bytes(self) -> int:
        """The width of the widest vectors that this code should use."""
        return 64 if "avx512" in self.features else 32 if "avx2" in self.features else 16

    @property
    def identity(self) -> str:
        """Text that changes whenever the same source might become another library, or one for another processor."""
        return "\n".join((*self.command, self.version, *self.flags, processor_identity()))

    def compile(self, parts: str | Sequence[str], library: Path, *, name: str = "generated") -> None:
        """Compile a source text, or its parts at the same time, into a shared library, in the folder of ``library``, which must
        be private.

        Raises:
            CompilerError: if the compiler fails, is killed, or takes longer than ten minutes.
        """
        sources = [parts] if isinstance(parts, str) else list(parts)
        files = [library.with_name(f"{library.stem}{f'-{k}' if k else ''}.c") for k in range(len(sources))]
        for file, source in zip(files, sources, strict=True):
            file.write_text(source, encoding="utf-8")
        purpose = f"compiling {escape_terminal(name, limit=80)}"
        if len(files) > 1:
            running = _Running()
            with ThreadPoolExecutor(usable_processors()) as pool, running:
                list(pool.map(lambda file: self._compile_part(file, purpose, running), files))
            files = [file.with_suffix(".o") for file in files]
        arguments = [*self.command, *self.flags, "-shared", "-o", str(library), *map(str, files), "-lm"]
        _run(arguments, library.parent, purpose)
        if not library.is_file():
            raise CompilerError(f"{self.command[0]} reported success but wrote no library for {name}")

    def _compile_part(self, file: Path, purpose: str, running: _Running) -> None:
        arguments = [*self.command, *self.flags, "-c", "-o", str(file.with_suffix(".o")), str(file)]
        _run(arguments, file.parent, purpose, running)


def find_toolchain(target: str = "native") -> Toolchain | NoToolchain:
    """The compiler to use: of ``CHAINRULE_CC`` if that is set (empty: none), else the first that works of ``CC``, ``cc``,
    ``gcc``, ``clang`` and the ``ziglang`` package.

    ``target`` makes code for another processor than this one: ``avx2`` or ``sse2`` (x86 only). The answer is kept as
    long as the environment variables stay the same.
    """
    settings = tuple(os.environ.get(name) for name in ("CHAINRULE_CC", "CC", "CFLAGS", "PATH"))
    return _find(target, *settings)


@cache
def _find(
    target: str, own: str | None, cc: str | None, cflags: str | None, path: str | None
) -> Toolchain | NoToolchain:
    if os.name != "posix":
        return NoToolchain("the cpu engine needs Linux or macOS")
    failures = []
    try:
        flags = _user_flags(cflags or "")
        for command in _candidates(own, cc, path):
            try:
                return _examined(command, flags, target)
            except CompilerError as error:
                failures.append(str(error))
    except ValueError as error:
        return NoToolchain(str(error))
    if failures:
        return NoToolchain("; ".join(failures))
    if own is not None:
        return NoToolchain("CHAINRULE_CC is empty, which means no compiler")
    return NoToolchain("no C compiler (cc, gcc, clang) was found; install one, or: pip install ziglang")


def _candidates(own: str | None, cc: str | None, path: str | None) -> Iterator[tuple[str, ...]]:
    if own is not None:
        if own.strip():
            yield _resolved(_split(own, "CHAINRULE_CC"), path)
        return
    if cc and cc.strip():
        yield _resolved(_split(cc, "CC"), path)
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name, path=path)
        if found:
            yield (str(Path(found).absolute()),)
    if importlib.util.find_spec("ziglang"):
        yield (sys.executable, "-m", "ziglang", "cc")


def _resolved(command: tuple[str, ...], path: str | None) -> tuple[str, ...]:
    found = shutil.which(command[0], path=path)
    return (str(Path(found).absolute()), *command[1:]) if found else command


def _split(text: str, variable: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"{variable} cannot be split into arguments: {error}") from None


def _user_flags(cflags: str) -> tuple[str, ...]:
    return tuple(flag for flag in _split(cflags, "CFLAGS") if flag not in _REFUSED)


def _examined(command: tuple[str, ...], flags: tuple[str, ...], target: str) -> Toolchain:
    """What :func:`examine` returns, remembered from the last process that asked for the same compiler."""
    fixed = (_PROBE, _DEFAULTS, _GUARDS, _WRITES_ARE_KEPT)
    key = entry_key("toolchain", repr((command, flags, target, fixed)), *_stamps(command))
    found: list[Toolchain] = []

    def make(path: Path) -> None:
        found.append(examine(command, flags, target))
        path.write_text(json.dumps(_as_json(found[0])), encoding="utf-8")

    try:
        path = open_cache()[0].obtain(key, ".json", make)
        return found[0] if found else _from_json(json.loads(path.read_bytes()))
    except OSError:
        return found[0] if found else examine(command, flags, target)


def _stamps(command: tuple[str, ...]) -> list[str]:
    """What changes when another compiler is installed under the same name, or this is another machine."""
    files = [Path(os.path.realpath(command[0]))]
    zig = importlib.util.find_spec("ziglang")
    if zig and zig.origin:
        files.append(Path(zig.origin))
    stamps = [processor_identity()]
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            stamps.append(f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    return stamps


def _as_json(toolchain: Toolchain) -> dict[str, Any]:
    return {**asdict(toolchain), "features": sorted(toolchain.features)}


def _from_json(read: dict[str, Any]) -> Toolchain:
    return Toolchain(
        command=tuple(read["command"]),
        version=read["version"],
        flags=tuple(read["flags"]),
        features=frozenset(read["features"]),
        target=read["target"],
    )


# --- examining a compiler ---------------------------------------------------------------------------------------------


def examine(command: tuple[str, ...], flags: tuple[str, ...] = (), target: str = "native") -> Toolchain:
    """Try a compiler out, by compiling, loading and calling a tiny library.

    Raises:
        CompilerError: if it is missing or does not work; the message names the compiler.
    """
    with tempfile.TemporaryDirectory(prefix="chainrule-") as name:
        folder = Path(name)
        version = _run([*command, "--version"], folder, "asking for its version").strip().splitlines()
        failure = CompilerError(f"{escape_terminal(command[0])} says nothing about its version")
        for machine in TARGETS[target]:
            try:
                toolchain = Toolchain(
                    command=command,
                    version=version[0] if version else "unknown",
                    flags=(*_DEFAULTS, *machine, *flags, *_GUARDS),
                    features=frozenset(),
                    target=target,
                )
                toolchain = _with_features(toolchain, folder)
                _try_out(toolchain, folder)
                return toolchain
            except CompilerError as error:
                failure = error
        raise failure


def _with_features(toolchain: Toolchain, folder: Path) -> Toolchain:
    macros = _run(
        [*toolchain.command, *toolchain.flags, "-dM", "-E", "-x", "c", os.devnull], folder, "reading its macros"
    )
    defined = re.findall(r"^#define (\w+)", macros, re.MULTILINE)
    features = frozenset(_FEATURES[name] for name in defined if name in _FEATURES)
    flags = toolchain.flags
    if "clang" not in features:
        # The first as -O3 has it; the rest of -O3 only takes time.
        flags = ("-fvect-cost-model=dynamic", *flags, _WRITES_ARE_KEPT)
    if "avx512" in features:
        flags = ("-mprefer-vector-width=512", *flags)
    return replace(toolchain, features=features, flags=flags)


def _try_out(toolchain: Toolchain, folder: Path) -> None:
    content = hashlib.sha256(repr(toolchain).encode()).hexdigest()[:16]
    library = folder / f"probe-{content}.so"
    toolchain.compile(_PROBE, library, name="a first program")
    try:
        answer = ctypes.CDLL(str(library)).cr_probe(3)
    except (OSError, AttributeError) as error:
        shown = escape_terminal(str(error), limit=200)
        raise CompilerError(
            f"what {escape_terminal(toolchain.command[0])} compiles cannot be loaded: {shown}"
        ) from None
    if answer != 3 + 12 + 4:
        raise CompilerError(f"what {escape_terminal(toolchain.command[0])} compiles gives a wrong answer")


# --- running it -------------------------------------------------------------------------------------------------------


class _Running:
    """Compilers at work. Used in ``with``, it ends them all where an exception ends the block.

    Each has a process group of its own: Ctrl-C in a terminal goes to all of the group in front. It is for the training, which may go
    on to the end of a step, and not for the compiler that the step waits for.
    """

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with self._lock:
                self._ended = True
                for process in self._processes:
                    _kill(process)

    def run(self, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
        """As :func:`subprocess.run`, whose exceptions it raises."""
        with self._lock:
            if self._ended:
                raise CompilerError("another part of the program failed to compile")
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)},
                process_group=0,
            )
            self._processes.add(process)
        try:
            told, complained = process.communicate(timeout=LONGEST_COMPILATION)
        except BaseException:
            _kill(process)
            process.communicate()
            raise
        finally:
            with self._lock:
                self._processes.discard(process)
        return subprocess.CompletedProcess(arguments, process.returncode, told, complained)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a compiler, and the programs that it has started, which are the ones that take long."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)


def _run(arguments: list[str], folder: Path, purpose: str, running: _Running | None = None) -> str:
    """Run a compiler with its temporary files in a private folder, and return what it wrote to its standard output."""
    shown = "zig cc" if "ziglang" in arguments[:3] else escape_terminal(Path(arguments[0]).name, limit=80)
    try:
        done = (running or _Running()).run(arguments, folder)
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{shown} took longer than {LONGEST_COMPILATION:g} s for {purpose}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character among the arguments
        reason = escape_terminal(getattr(error, "strerror", None) or str(error), limit=200)
        raise CompilerError(
            f"the compiler {escape_terminal(arguments[0], limit=200)} cannot be run: {reason}"
        ) from None
    if done.returncode < 0:
        raise CompilerError(f"{shown} was killed ({_signal_name(-done.returncode)}) while {purpose}")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace")
        if any(words in said for words in _NO_ROOM):
            raise NoRoomError(f"{shown} found no room on the disk while {purpose}")
        complaint = _first_complaint(said)
        raise CompilerError(f"{shown} failed while {purpose}: {complaint}")
    return done.stdout.decode("utf-8", "replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _first_complaint(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    worst = [line for line in lines if "error" in line.lower()]
    return escape_terminal((worst or lines or ["it did not say why"])[0], limit=300)
