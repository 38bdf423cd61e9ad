"""Random damage to weight files: they load or raise WeightsError, and never cost more memory than their own size."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chainrule.core.errors import WeightsError
from chainrule.core.weights import DTYPES, load_weights, save_weights

ARRAYS = {
    "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers.0.bias": np.array([1.5, -0.0]),
    "step": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 5), np.float32),
    "mask": np.array([True, False, True]),
}
METADATA = {"format": "1"}
in_one_folder = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("weights") / "m"
    save_weights(file, ARRAYS, METADATA)
    return file.read_bytes()


def load_bytes(file: Path, content: bytes, **options: bool) -> tuple[dict[str, Any], dict[str, str]] | None:
    """What the file holds, or None if it is refused; anything but WeightsError passes through and fails the test."""
    file.write_bytes(content)
    try:
        return load_weights(file, **options)
    except WeightsError as error:
        message = str(error)
    assert message.isprintable()
    return None


POSITION = st.floats(0, 1)
CHANGES = st.lists(
    st.tuples(st.just("flip"), POSITION, st.integers(0, 7))
    | st.tuples(st.just("set"), POSITION, st.integers(0, 255) | st.sampled_from(b'0129{}[]",:\\- truefF'))
    | st.tuples(st.just("insert"), POSITION, st.binary(max_size=9))
    | st.tuples(st.just("delete"), POSITION, st.integers(1, 40))
    | st.tuples(st.just("copy"), POSITION, POSITION),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    data = bytearray(content)
    for kind, where, what in changes:
        at = int(where * (len(data) - 1)) if data else 0
        if kind == "flip" and data:
            data[at] ^= 1 << what
        elif kind == "set" and data:
            data[at] = what
        elif kind == "insert":
            data[at:at] = what
        elif kind == "delete":
            del data[at : at + what]
        elif kind == "copy":
            start = int(what * len(data))
            data[at : at + 16] = data[start : start + 16]
    return bytes(data)


@in_one_folder
@given(changes=CHANGES)
@example(changes=[("set", 1.0, 2)])
def test_a_damaged_file_is_refused_or_holds_exactly_what_was_saved(
    tmp_path: Path, original: bytes, changes: list[tuple[str, float, Any]]
) -> None:
    loaded = load_bytes(tmp_path / "m", damaged(original, changes), require_checksum=True)
    if loaded is not None:
        arrays, metadata = loaded
        assert metadata == METADATA
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in ARRAYS.items()
        }


SIZES = st.integers(0, 4) | st.integers(-1, 2**64 + 1) | st.sampled_from([2**20, 2**31, 2**32, 2**62, 2**63, 2**64])
ANYTHING = st.none() | st.booleans() | SIZES | st.floats() | st.text(max_size=3) | st.lists(SIZES, max_size=3)


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header that is right but for a few fields, and the number of bytes that its tensors need."""
    header: dict[str, Any] = {}
    offset = 0
    for name in draw(
        st.lists(st.text(max_size=4) | st.sampled_from(["a", "b.w", "..", "a/b"]), max_size=4, unique=True)
    ):
        code = draw(st.sampled_from(list(DTYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        end = offset + int(np.prod(shape)) * DTYPES[code].itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    for name in draw(st.lists(st.sampled_from(list(header)), max_size=2) if header else st.just([])):
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        header[name][field] = draw(st.lists(SIZES, max_size=4) | ANYTHING)
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | ANYTHING)
    return header, offset


@in_one_folder
@given(made=headers(), surplus=st.sampled_from([0, 0, 0, 1, -1, 100]))
@example(made=({"a": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}, 8), surplus=0)
@example(made=({"a": {"dtype": "F64", "shape": [2**62, 0], "data_offsets": [0, 0]}}, 0), surplus=0)
@example(made=({"a": {"dtype": "F64", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, 0), surplus=0)
def test_a_header_that_lies_costs_no_memory_and_what_loads_is_a_safetensors_file(
    tmp_path: Path, made: tuple[dict[str, Any], int], surplus: int
) -> None:
    header, needed = made
    text = json.dumps(header).encode("ascii")
    data = bytes(max(0, needed + surplus))
    content = struct.pack("<Q", len(text)) + text + data
    tracemalloc.start()
    try:
        loaded = load_bytes(tmp_path / "m", content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(content) + 40 * len(text) + 200_000  # parsed JSON is larger than its text; buffers and modules
    if loaded is None:
        return
    assert sum(array.nbytes for array in loaded[0].values()) == len(data)
    # Whatever is accepted here, the reference implementation of the format accepts too.
    theirs = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    assert {name: (DTYPES[t["dtype"]], tuple(t["shape"]), bytes(t["data"])) for name, t in theirs.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in loaded[0].items()
    }


def test_reading_and_writing_take_at_most_twice_the_memory_of_the_file(tmp_path: Path) -> None:
    arrays = {str(number): np.full(2**17, float(number)) for number in range(16)}
    tracemalloc.start()
    try:
        save_weights(tmp_path / "m", arrays)
        _, writing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        loaded, _ = load_weights(tmp_path / "m")
        _, reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    size = (tmp_path / "m").stat().st_size
    assert writing < 2.1 * size
    assert reading < 2.1 * size


@in_one_folder
@given(content=st.binary(max_size=200) | st.binary(max_size=60).map(lambda text: struct.pack("<Q", len(text)) + text))
def test_arbitrary_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    loaded = load_bytes(tmp_path / "m", content)
    assert loaded in (None, ({}, {}))
