"""The worker threads: every index once, for any number of threads, callers, forks and other work on the machine."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from chainrule.core.errors import ConfigError
from chainrule.engines.cpu.loading import load_library, load_runtime
from chainrule.engines.cpu.processor import usable_processors
from chainrule.engines.cpu.runtime import Runtime, requested_threads
from chainrule.engines.cpu.toolchain import Toolchain, find_toolchain

SOURCE = r"""
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void count_one(void *context, long index) { ((int *)context)[index] += 1; }
CR_EXPORT void count(int *counts, long n) { cr_parallel(count_one, counts, n); }

static _Atomic long sum;
static void add_one(void *context, long index) { sum += index; }
CR_EXPORT long add_up(long n) {
    sum = 0;
    cr_parallel(add_one, 0, n);
    return sum;
}

static void count_row(void *context, long row) { cr_parallel(count_one, (int *)context + 100 * row, 100); }
CR_EXPORT void count_nested(int *counts, long rows) { cr_parallel(count_row, counts, rows); }

static void nothing(void *context, long index) {}
CR_EXPORT double microseconds_of_regions(long regions, long n) {
    double start = now();
    for (long i = 0; i < regions; i++) cr_parallel(nothing, 0, n);
    return 1e6 * (now() - start) / (double)regions;
}

static void work(void *context, long index) {
    double end = now() + *(double *)context;
    while (now() < end) {}
}
CR_EXPORT double milliseconds_of_working_regions(long regions, long n, double seconds) {
    double start = now();
    for (long i = 0; i < regions; i++) cr_parallel(work, &seconds, n);
    return 1e3 * (now() - start) / (double)regions;
}

static void rest(void *context, long index) { usleep(300000); }
CR_EXPORT void sleep_everywhere(long n) { cr_parallel(rest, 0, n); }

typedef struct { void **places; } placement;
static void take_scratch(void *context, long index) {
    char *memory = cr_scratch(100000);
    memset(memory, (int)index, 100000);
    usleep(20000);
    for (int i = 0; i < 100000; i++)
        if (memory[i] != (char)index) return;
    ((placement *)context)->places[index] = memory;
}
CR_EXPORT void take_all_scratch(void **places, long n) {
    placement all = {places};
    cr_parallel(take_scratch, &all, n);
}

static void halve(void *context, long index) { ((volatile float *)context)[index] *= 0.5f; }
CR_EXPORT void halve_as_they_are(float *x, long n) { cr_parallel(halve, x, n); }
CR_EXPORT void halve_in_ieee(float *x, long n) {
    uint64_t before = cr_begin();
    cr_parallel(halve, x, n);
    cr_end(before);
}
#if defined(__SSE__)
CR_EXPORT unsigned flush_denormals(unsigned on) {
    unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(on ? before | 0x8040 : before & ~0x8040u);
    return before;
}
#endif
"""

# What the programs below begin with; they run in processes of their own.
BEGIN = f"""
import ctypes, os, sys, threading, time
from chainrule.engines.cpu.loading import load_library, load_runtime
library = load_library({SOURCE!r}, name="regions")
library.add_up.restype = ctypes.c_long
load_runtime().use_threads(4)
def check():
    for _ in range(100):
        assert library.add_up(ctypes.c_long(100)) == 4950
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = load_library(SOURCE, name="regions")
    loaded.add_up.restype = ctypes.c_long
    loaded.microseconds_of_regions.restype = ctypes.c_double
    loaded.milliseconds_of_working_regions.restype = ctypes.c_double
    return loaded


@pytest.fixture(params=[1, 2, 3, 4, 16])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with load_runtime().using_threads(request.param):
        yield request.param


def address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def run(program: str, timeout: float = 120, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 17, 1000, 1_000_003])
def test_every_index_is_run_once(library: ctypes.CDLL, threads: int, count: int) -> None:
    counts = np.zeros(count, np.int32)
    for _ in range(20):
        library.count(address(counts), ctypes.c_long(count))
    np.testing.assert_array_equal(counts, 20)


def test_short_regions_in_a_row_do_not_mix(library: ctypes.CDLL, threads: int) -> None:
    for count in list(range(1, 12)) * 300:
        assert library.add_up(ctypes.c_long(count)) == count * (count - 1) // 2


def test_a_region_inside_a_task_runs_there(library: ctypes.CDLL, threads: int) -> None:
    counts = np.zeros((50, 100), np.int32)
    library.count_nested(address(counts), ctypes.c_long(50))
    np.testing.assert_array_equal(counts, 1)


def test_tasks_do_run_at_the_same_time(library: ctypes.CDLL) -> None:
    with load_runtime().using_threads(8):
        library.sleep_everywhere(ctypes.c_long(8))
        start = time.perf_counter()
        library.sleep_everywhere(ctypes.c_long(8))
        assert time.perf_counter() - start < 8 * 0.3 / 2


def test_the_gil_is_released(library: ctypes.CDLL) -> None:
    thread = threading.Thread(target=library.sleep_everywhere, args=(ctypes.c_long(1),))
    thread.start()
    start = time.perf_counter()
    steps = 0
    while thread.is_alive() and time.perf_counter() - start < 10:
        steps += 1
    thread.join()
    assert steps > 1000


def test_scratch_memory_belongs_to_one_thread(library: ctypes.CDLL) -> None:
    places = np.zeros(32, np.uint64)
    with load_runtime().using_threads(8):
        library.take_all_scratch(address(places), ctypes.c_long(len(places)))
    assert (places != 0).all()
    assert (places % 64 == 0).all()
    assert 2 <= len(set(places)) <= 8


def test_denormals_survive_other_libraries(library: ctypes.CDLL) -> None:
    if not hasattr(library, "flush_denormals"):
        pytest.skip("only x86 has this switch in every thread")
    x = np.full(10_000, 2e-38, np.float32)
    want = x * np.float32(0.5)
    library.flush_denormals(1)
    try:
        library.halve_in_ieee(address(x), ctypes.c_long(len(x)))
        flushed = np.full(1, 2e-38, np.float32)
        library.halve_as_they_are(address(flushed), ctypes.c_long(1))
    finally:
        library.flush_denormals(0)
    np.testing.assert_array_equal(x, want)
    assert flushed[0] == 0  # the setting of the thread was put back


# --- number of threads ------------------------------------------------------------------------------------------------


def test_the_number_of_threads_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAINRULE_THREADS", raising=False)
    assert requested_threads() == usable_processors()
    monkeypatch.setenv("CHAINRULE_THREADS", " 3 ")
    assert requested_threads() == 3


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "1025", "9" * 5000, "٣", "\x1b[2J"])
def test_a_senseless_number_of_threads_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAINRULE_THREADS", text)
    with pytest.raises(ConfigError, match="CHAINRULE_THREADS must be a number from 1 to 1024, not '") as caught:
        requested_threads()
    assert str(caught.value).isprintable()


def test_a_block_can_use_another_number(library: ctypes.CDLL) -> None:
    runtime: Runtime = load_runtime()
    before = runtime.threads
    with runtime.using_threads(5):
        assert runtime.threads == 5
    assert runtime.threads == before
    with pytest.raises(ConfigError), runtime.using_threads(0):
        pass


def test_one_thread_starts_no_workers() -> None:
    if not is_linux():
        pytest.skip("looks into /proc")
    run(
        """
load_runtime().use_threads(1)
before = os.listdir('/proc/self/task')
check()
assert os.listdir('/proc/self/task') == before
"""
    )


def test_workers_leave_signals_to_python() -> None:
    if not is_linux():
        pytest.skip("looks into /proc")
    run(
        """
check()
blocked = 0
for task in os.listdir('/proc/self/task'):
    if int(task) != os.getpid():
        mask = next(line.split()[1] for line in open(f'/proc/self/task/{task}/status') if line.startswith('SigBlk'))
        blocked += int(mask, 16) & 1 << 1 != 0  # SIGINT
assert blocked == 3, blocked
"""
    )


def is_linux() -> bool:
    return Path("/proc/self/task").is_dir()


# --- several callers, forks -------------------------------------------------------------------------------------------


def test_eight_python_threads_call_at_once(library: ctypes.CDLL) -> None:
    wrong: list[int] = []

    def call(seed: int) -> None:
        counts = np.zeros(1000 + seed, np.int32)
        for _ in range(500):
            library.count(address(counts), ctypes.c_long(len(counts)))
        if not (counts == 500).all():
            wrong.append(seed)

    with load_runtime().using_threads(4):
        callers = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=60)
        assert not any(caller.is_alive() for caller in callers)
    assert not wrong


def test_children_forked_after_use_have_threads_of_their_own() -> None:
    run(
        """
check()
for _ in range(3):
    child = os.fork()
    if child == 0:
        check()
        grandchild = os.fork()
        if grandchild == 0:
            check()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 7
        assert not sys.platform == 'linux' or len(os.listdir('/proc/self/task')) == 4
        os._exit(7)
    check()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    )


def test_children_forked_while_another_thread_works() -> None:
    run(
        """
stop = False
def keep_busy():
    while not stop:
        library.add_up(ctypes.c_long(100))
busy = threading.Thread(target=keep_busy)
busy.start()
for _ in range(50):
    child = os.fork()
    if child == 0:
        check()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stop = True
busy.join()
"""
    )


def test_children_forked_while_another_thread_compiles() -> None:
    run(
        """
from chainrule.engines.cpu import loading
entered = threading.Event()
def hold():
    with loading._lock:
        entered.set()
        time.sleep(3)
holding = threading.Thread(target=hold)
holding.start()
entered.wait()
child = os.fork()
if child == 0:
    start = time.monotonic()
    load_library('CR_EXPORT int two(void) { return 2; }', name='two')
    os._exit(7 if time.monotonic() - start < 2.5 else 8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
holding.join()
"""
    )


def test_children_of_a_process_pool() -> None:
    run(
        """
import multiprocessing
check()
with multiprocessing.get_context('fork').Pool(3) as pool:
    results = [pool.apply_async(check) for _ in range(6)]
    for result in results:
        result.get(60)
"""
    )


def test_a_process_ends_while_its_workers_sleep_or_spin() -> None:
    run("check()", timeout=20)
    run("check()\ntime.sleep(0.5)", timeout=20)


# --- beside other work ------------------------------------------------------------------------------------------------


@pytest.fixture
def busy_machine() -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_processors())]
    time.sleep(0.3)
    yield
    for process in spinning:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("busy_machine")
def test_regions_do_not_collapse_on_a_busy_machine(library: ctypes.CDLL) -> None:
    """A pool that waits for every thread needs 8 ms a region here."""
    with load_runtime().using_threads(usable_processors()):
        assert min(library.microseconds_of_regions(ctypes.c_long(2000), ctypes.c_long(64)) for _ in range(3)) < 500
        duration = min(
            library.milliseconds_of_working_regions(ctypes.c_long(100), ctypes.c_long(8), ctypes.c_double(20e-6))
            for _ in range(3)
        )
    assert duration < 4


def test_idle_workers_sleep(library: ctypes.CDLL) -> None:
    with load_runtime().using_threads(4):
        library.add_up(ctypes.c_long(100))
        time.sleep(0.3)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1
        assert library.add_up(ctypes.c_long(100)) == 4950


# --- under a sanitizer ------------------------------------------------------------------------------------------------

_RACES = r"""
#undef CR_RUNTIME_ITSELF
#include <sys/wait.h>
#include <unistd.h>
static long plain[1000];
static void add_one(void *context, long index) { ((long *)context)[index] += index; }
static void nested(void *context, long index) {
    long here[50] = {0};
    functions.parallel(add_one, here, 50);
    ((long *)context)[index] += here[49];
}

static void *caller(void *argument) {
    long own[300] = {0};
    for (int i = 0; i < 2000; i++) functions.parallel(i % 7 ? add_one : nested, own, 1 + i % 300);
    return NULL;
}

int main(void) {
    cr_start();
    cr_use_threads(4);
    pthread_t callers[3];
    for (int i = 0; i < 3; i++) pthread_create(&callers[i], NULL, caller, NULL);
    for (int i = 0; i < 3; i++) pthread_join(callers[i], NULL);
    for (int i = 0; i < 3000; i++) {
        cr_use_threads(1 + i % 6);
        functions.parallel(add_one, plain, 1000);
        if (i % 500 == 0) {
            struct timespec moment = {0, 30000000};
            nanosleep(&moment, NULL); /* until they sleep */
        }
        if (i % 1000 == 700) {
            int status = 1;
            pid_t child = fork();
            if (!child) {
                long own[100] = {0};
                for (int k = 0; k < 100; k++) functions.parallel(add_one, own, 100);
                _exit(own[99] != 9900);
            }
            if (waitpid(child, &status, 0) != child || status) return 2;
        }
    }
    for (long i = 0; i < 1000; i++)
        if (plain[i] != 3000 * i) return 1;
    return 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_runtime_under_a_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    toolchain = find_toolchain()
    assert isinstance(toolchain, Toolchain)
    folder = resources.files("chainrule.engines.cpu") / "c"
    parts = [(folder / name).read_text() for name in ("runtime.h", "runtime.c")]
    source, program = tmp_path / "races.c", tmp_path / "races"
    source.write_text("#define CR_RUNTIME_ITSELF 1\n#include <time.h>\n" + "\n".join(parts) + _RACES)
    arguments = ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [*toolchain.command, *toolchain.flags, *arguments, str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in built.stderr or "unsupported" in built.stderr:
        pytest.skip(f"this compiler comes without the {sanitizer} sanitizer: {built.stderr}")
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "TSAN_OPTIONS": "die_after_fork=0", "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
