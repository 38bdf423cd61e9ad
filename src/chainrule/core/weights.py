"""Weight files in the safetensors format: named arrays plus a little text, written atomically and read with suspicion.

Layout (https://github.com/huggingface/safetensors, "Format"): the length of the header as a little-endian 64-bit
number; the header, a JSON object that gives every tensor's dtype, shape and place; then the tensors' bytes, without
holes. Nothing in such a file is code. A file from a stranger may still lie about its sizes, so every declared size is
checked against the size of the file before anything is allocated for it.

Files written here carry the SHA-256 of their contents in their metadata, and a file that carries one is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrule.core.errors import WeightsError
from chainrule.core.files import atomic_write, parse_strict_json, reason
from chainrule.core.names import escape_terminal, safe_tensor_name, shown_path

Arrays = dict[str, NDArray[Any]]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
CHECKSUM_KEY = "chainrule.sha256"
LARGEST_HEADER = 32 * 2**20  # bytes
MOST_TENSORS = 200_000
MOST_AXES = 32

_CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in DTYPES.items()}
_LARGEST_SIZE = 2**63 - 1


# --- writing ----------------------------------------------------------------------------------------------------------


def save_weights(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named arrays to a safetensors file that appears complete or not at all.

    Arrays may be of any rank and memory layout and either byte order; they are stored little-endian in C order, and the
    header lists them in the order given. The same arrays and metadata always give the same bytes.

    Raises:
        WeightsError: for a name that is not safe, or elements that the format has no type for; nothing is written.
        RunError: when the file cannot be written.
    """
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str) or key == CHECKSUM_KEY:
            raise WeightsError(
                f"the metadata entry {escape_terminal(key)!r} of a weight file must be text under a free key"
            )
    coded = {safe_tensor_name(name): _to_stored(name, array) for name, array in arrays.items()}
    header = _header_text(coded, {**texts, CHECKSUM_KEY: _checksum(coded, texts)})
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for name in _storage_order(coded):
            file.write(_bytes_of(coded[name]).data)


def _to_stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(array)
    code = _CODES.get((array.dtype.kind, array.dtype.itemsize))
    if code is None:
        raise WeightsError(
            f"the elements of '{escape_terminal(name)}' are {array.dtype}, which weight files cannot hold"
        )
    return np.asarray(array, dtype=DTYPES[code], order="C")


def _storage_order(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Wide elements first, so that every tensor begins at a multiple of its element size."""
    return sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)


def _header_text(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    offset = 0
    places: dict[str, list[int]] = {}
    for name in _storage_order(arrays):
        places[name] = [offset, offset + arrays[name].nbytes]
        offset += arrays[name].nbytes
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    for name, array in arrays.items():
        code = _CODES[array.dtype.kind, array.dtype.itemsize]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": places[name]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    return text + b" " * (-len(text) % 8)


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The memory of a C-contiguous array as a flat array of bytes, without copying."""
    return array.reshape(-1).view(np.uint8)


def _checksum(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata and of every tensor's name, dtype, shape and bytes, whatever their order in the file."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode("ascii"))
    for name in sorted(arrays):
        array = arrays[name]
        code = _CODES[array.dtype.kind, array.dtype.itemsize]
        digest.update(json.dumps([name, code, array.shape]).encode("ascii"))
        digest.update(_bytes_of(array).data)
    return digest.hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def load_weights(path: Path, *, require_checksum: bool = False) -> tuple[Arrays, dict[str, str]]:
    """Reads a safetensors file: its arrays in the order of the header, and its metadata without the checksum.

    The arrays own their memory, are writable, aligned and C-contiguous. Before any array is allocated the whole header
    has been checked: sizes against the size of the file, offsets without gaps and overlaps, names, dtypes and shapes.

    Args:
        path: the file.
        require_checksum: also refuse files without the checksum that :func:`save_weights` stores.

    Raises:
        WeightsError: when the file is missing, unreadable, not safetensors, truncated, altered, or holds names or
            element types that are not accepted; the message names the file and the tensor.
    """
    shown = shown_path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise _RefusedError("is not a regular file")
        with path.open("rb") as file:
            return _read(file, require_checksum)
    except FileNotFoundError:
        raise WeightsError(f"{shown} does not exist") from None
    except OSError as failure:
        raise WeightsError(f"cannot read {shown}: {reason(failure)}") from failure
    except _RefusedError as failure:
        raise WeightsError(f"{shown} {failure}") from failure.__cause__


class _RefusedError(Exception):
    """Why a file is refused, as a sentence without its subject, the file."""


def _read(file: BinaryIO, require_checksum: bool) -> tuple[Arrays, dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    header = _read_header(file, size)
    metadata = _checked_metadata(header.pop("__metadata__", {}))
    data_start = file.tell()
    entries = _checked_entries(header, size - data_start)

    arrays: Arrays = {name: np.empty(entry.shape, entry.dtype) for name, entry in entries.items()}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        _read_into(file, _bytes_of(arrays[name]))
        if entry.dtype.kind == "b" and entry.end > entry.begin and _bytes_of(arrays[name]).max() > 1:
            raise _RefusedError(
                f"is damaged: {_quoted(name)} is declared boolean and holds a byte that is neither 0 nor 1"
            )

    expected = metadata.pop(CHECKSUM_KEY, None)
    if expected is None and require_checksum:
        raise _RefusedError("lacks the checksum that Chainrule writes, so it cannot be told whether it was altered")
    if expected is not None and expected != _checksum(arrays, metadata):
        raise _RefusedError("is damaged or was altered: its contents do not match the checksum stored with them")
    return arrays, metadata


def _read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    prefix = file.read(8)
    if prefix[:2] == b"PK" or prefix[:1] == b"\x80":
        raise _RefusedError("looks like a pickle, which could run code when opened; convert it to safetensors first")
    if len(prefix) < 8:
        raise _RefusedError(f"is not a safetensors file: it has only {size} bytes")
    [length] = struct.unpack("<Q", prefix)
    if length > size - 8:
        raise _RefusedError(
            f"is truncated or not a safetensors file: it declares a header of {length} bytes and has {size - 8} left"
        )
    if length > LARGEST_HEADER:
        raise _RefusedError(f"declares a header of {length} bytes, and {LARGEST_HEADER} are allowed")
    raw = file.read(length)
    if len(raw) != length or not raw.startswith(b"{"):
        raise _RefusedError("is not a safetensors file: its header is not a JSON object")
    try:
        header = parse_strict_json(raw)
    except ValueError as failure:
        raise _RefusedError(f"has a damaged header: {failure}") from failure
    assert isinstance(header, dict)
    return header


def _checked_metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _RefusedError("has a damaged header: its metadata is not an object of texts")
    return found


def _checked_entries(header: dict[str, Any], data_size: int) -> dict[str, _Entry]:
    if len(header) > MOST_TENSORS:
        raise _RefusedError(f"declares {len(header)} tensors, and {MOST_TENSORS} are allowed")
    entries = {name: _checked_entry(name, fields) for name, fields in header.items()}
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            problem = "overlaps the tensor before it" if entry.begin < reached else "leaves a gap before it"
            raise _RefusedError(f"has a damaged header: {_quoted(name)} {problem}")
        reached = entry.end
    if reached > data_size:
        raise _RefusedError(f"is truncated: its tensors need {reached} bytes and it has {data_size}")
    if reached < data_size:
        raise _RefusedError(f"has {data_size - reached} bytes after its last tensor that belong to nothing")
    return entries


def _checked_entry(name: str, fields: Any) -> _Entry:
    try:
        safe_tensor_name(name)
    except WeightsError as failure:
        raise _RefusedError(f"is refused: {failure}") from failure
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise _RefusedError(f"has a damaged header: {_quoted(name)} is not described by dtype, shape and data_offsets")
    dtype = DTYPES.get(fields["dtype"]) if isinstance(fields["dtype"], str) else None
    if dtype is None:
        shown = escape_terminal(fields["dtype"], limit=40)
        raise _RefusedError(f"holds {_quoted(name)} with elements of type {shown}, which is not supported")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MOST_AXES:
        raise _RefusedError(f"has a damaged header: the shape of {_quoted(name)} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _RefusedError(f"has a damaged header: the offsets of {_quoted(name)} are not a pair in ascending order")
    if math.prod(axis for axis in shape if axis) * dtype.itemsize > _LARGEST_SIZE:
        raise _RefusedError(f"has a damaged header: the shape of {_quoted(name)} is larger than any memory")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise _RefusedError(f"has a damaged header: the shape and the number of bytes of {_quoted(name)} disagree")
    return _Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(type(item) is int and 0 <= item <= _LARGEST_SIZE for item in found)


def _read_into(file: BinaryIO, memory: NDArray[np.uint8]) -> None:
    filled = 0
    while filled < memory.size:
        count = file.readinto(memory[filled:].data)  # type: ignore[attr-defined]
        if not count:
            raise _RefusedError("became shorter while it was read")
        filled += count


def _quoted(name: str) -> str:
    return f"'{escape_terminal(name, limit=80)}'"


# --- comparing --------------------------------------------------------------------------------------------------------


def check_same_architecture(
    expected: Mapping[str, tuple[tuple[int, ...], Any]], found: Mapping[str, NDArray[Any]], file: Path | str
) -> None:
    """Checks that the arrays read from ``file`` are those that a network has: names, shapes and dtypes, in any order.

    Args:
        expected: the shape and the dtype of each array of the network, in the order of its layers.
        found: the arrays of the file.
        file: its path, for the message.

    Raises:
        WeightsError: naming the first array that does not fit, with both shapes.
    """
    for name, problem in _mismatches(expected, found):
        raise WeightsError(f"{shown_path(file)} holds weights for another network: {_quoted(name)} {problem}")


def _mismatches(
    expected: Mapping[str, tuple[tuple[int, ...], Any]], found: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[str, str]]:
    for name, (shape, dtype) in expected.items():
        if name not in found:
            yield name, f"of shape {tuple(shape)} is missing from the file"
        elif found[name].shape != tuple(shape):
            yield name, f"has shape {found[name].shape} in the file and {tuple(shape)} in this network"
        elif found[name].dtype != np.dtype(dtype):
            yield name, f"has elements of type {found[name].dtype} in the file and {np.dtype(dtype)} in this network"
    for name, array in found.items():
        if name not in expected:
            yield name, f"of shape {array.shape} is in the file, and this network has no such array"
