"""Weight files in the safetensors format: named arrays plus a little text, written atomically and read with suspicion.

The `safetensors` library encodes and decodes; docs/decisions/0006-weights-files.md says what it guarantees and what is
added here. Nothing in such a file is code, and nothing is allocated on the word of its header alone: reading takes
memory for the file and for its tensors, and the library has compared every declared size with the file by then.

Files written here carry one metadata entry, a JSON object with the metadata and the order of the arrays, as they were
given, and the SHA-256 of all contents. A file that carries it is checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from chainrule.core.dtypes import BFLOAT16, to_numpy
from chainrule.core.errors import WeightsError
from chainrule.core.files import parse_strict_json, reason, write_bytes
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
    "BF16": to_numpy(BFLOAT16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
CHECKSUM_KEY = "chainrule"
LARGEST_HEADER = 32 * 2**20  # bytes
MOST_TENSORS = 200_000
MOST_AXES = 32


# --- writing ----------------------------------------------------------------------------------------------------------


def save_weights(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named arrays to a safetensors file that appears complete or not at all.

    Arrays may be of any rank and memory layout and either byte order; they are stored little-endian in C order. The
    same arrays and metadata always give the same bytes.

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
    stored = {safe_tensor_name(name): _to_stored(name, array) for name, array in arrays.items()}
    record = json.dumps(_record(stored, texts), separators=(",", ":"))
    write_bytes(path, safetensors.numpy.save(stored, {CHECKSUM_KEY: record}))


def _to_stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = np.asarray(array).dtype.newbyteorder("<")
    if dtype not in DTYPES.values():
        raise WeightsError(f"the elements of {_quoted(name)} are {dtype}, which weight files cannot hold")
    return np.asarray(array, dtype=dtype, order="C")  # the library would store the memory of other orders as it lies


def _record(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> dict[str, object]:
    """What the one metadata entry says of a file.

    Metadata and order are packed into it because the library writes several entries in random order, sorts the tensors,
    and cannot hold lone surrogates. The SHA-256 is that of the metadata and of each array's name, dtype, shape and
    bytes, in this order.
    """
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode("ascii"))
    for name, array in arrays.items():
        kind = BFLOAT16 if array.dtype == DTYPES["BF16"] else array.dtype.str
        digest.update(json.dumps([name, kind, array.shape]).encode("ascii"))
        digest.update(array.reshape(-1).view(np.uint8).data)
    return {"metadata": dict(metadata), "order": list(arrays), "sha256": digest.hexdigest()}


# --- reading ----------------------------------------------------------------------------------------------------------


class _RefusedError(Exception):
    """Why a file is refused, as a sentence without its subject, the file."""


def load_weights(path: Path, *, require_checksum: bool = False) -> tuple[Arrays, dict[str, str]]:
    """Reads a safetensors file: its arrays and its metadata, both in the order in which they were given to be saved.

    From files of other programs the arrays come in the order of the header. The arrays own their memory, are writable,
    aligned and C-contiguous. Reading takes at most twice the memory that the file has bytes, and what parsing the
    header takes.

    Args:
        path: the file.
        require_checksum: also refuse files without the checksum that :func:`save_weights` stores.

    Raises:
        WeightsError: when the file is missing, unreadable, not safetensors, truncated, altered, or holds names or
            element types that are not accepted; the message names the file and what is wrong with it.
    """
    shown = shown_path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise _RefusedError("is not a regular file")
        with path.open("rb") as file:
            header, tensors = _read(file)
        metadata = header.pop("__metadata__", {})
        arrays = {name: _to_array(name, tensors.pop(name)) for name in header}
        return _checked_contents(arrays, metadata, require_checksum)
    except FileNotFoundError:
        raise WeightsError(f"{shown} does not exist") from None
    except MemoryError:
        raise WeightsError(f"{shown} does not fit into the memory of this machine") from None
    except OSError as failure:
        raise WeightsError(f"cannot read {shown}: {reason(failure)}") from failure
    except _RefusedError as failure:
        raise WeightsError(f"{shown} {failure}") from failure.__cause__


def _read(file: io.BufferedReader) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The header of a file, and its tensors as the library returns them.

    Both come from one copy of the file in memory. A memory map would end the process if another one made the file
    shorter meanwhile, and the library returns neither the metadata nor the order of bytes that it decodes.
    """
    size = os.fstat(file.fileno()).st_size
    length = _header_length(file.peek(9)[:9], size)
    content = file.read(size)
    header = _parse_header(content[8 : 8 + length])
    try:
        return header, dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as failure:
        raise _RefusedError(_explanation(str(failure), header, len(content) - 8 - length)) from failure


def _header_length(start: bytes, size: int) -> int:
    if start.startswith((b"PK", b"\x80")) and start[8:] not in (b"", b"{"):  # a header may have 0x80 bytes, too
        raise _RefusedError("looks like a pickle, which could run code when opened; convert it to safetensors first")
    if len(start) < 8:
        raise _RefusedError(f"is not a safetensors file: it has only {size} bytes")
    length = int.from_bytes(start[:8], "little")
    if length > size - 8:
        raise _RefusedError(
            f"is truncated or not a safetensors file: it declares a header of {length} bytes and has {size - 8} left"
        )
    if length > LARGEST_HEADER:
        raise _RefusedError(f"declares a header of {length} bytes, and {LARGEST_HEADER} are allowed")
    return length


def _parse_header(raw: bytes) -> dict[str, Any]:
    """The header as JSON, with the checks that the library lacks: repeated keys, names, element types and counts."""
    if not raw.startswith(b"{"):
        raise _RefusedError("is not a safetensors file: its header is not a JSON object")
    try:
        header: dict[str, Any] = parse_strict_json(raw)
    except ValueError as failure:
        raise _RefusedError(f"has a damaged header: {failure}") from failure
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) > MOST_TENSORS:
        raise _RefusedError(f"declares {len(tensors)} tensors, and {MOST_TENSORS} are allowed")
    if not _are_texts(header.get("__metadata__", {})):
        raise _RefusedError("has a damaged header: its metadata is not an object of texts")
    for name, entry in tensors.items():
        try:
            safe_tensor_name(name)
        except WeightsError as failure:
            raise _RefusedError(f"is refused: {failure}") from failure
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise _RefusedError(
                f"has a damaged header: {_quoted(name)} is not described by dtype, shape and data_offsets"
            )
        if entry["dtype"] not in list(DTYPES):  # a list, as what stands there need not be hashable
            shown = escape_terminal(entry["dtype"], limit=40)
            raise _RefusedError(f"holds {_quoted(name)} with elements of type {shown}, which is not supported")
    return header


def _explanation(objection: str, header: dict[str, Any], data_size: int) -> str:
    if "incomplete" in objection:  # raised after the library has found the offsets in order
        needed = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if needed > data_size:
            return f"is truncated: its tensors need {needed} bytes and it has {data_size}"
        return f"has {data_size - needed} bytes after its last tensor that belong to nothing"
    problem = objection.removeprefix("Error while deserializing: ").removeprefix("invalid JSON in header: ")
    return f"has a damaged header: {escape_terminal(problem, limit=160)}"


def _to_array(name: str, tensor: dict[str, Any]) -> NDArray[Any]:
    shape, dtype = tensor["shape"], DTYPES[tensor["dtype"]]
    if len(shape) > MOST_AXES:
        raise _RefusedError(f"holds {_quoted(name)} with {len(shape)} axes, and {MOST_AXES} are allowed")
    try:
        array: NDArray[Any] = np.ndarray(shape, dtype, buffer=tensor["data"]).copy()
    except (ValueError, OverflowError) as failure:  # an empty tensor with sizes whose product NumPy cannot count
        raise _RefusedError(
            f"has a damaged header: the shape of {_quoted(name)} is larger than any memory"
        ) from failure
    if dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
        raise _RefusedError(f"is damaged: {_quoted(name)} is declared boolean and holds a byte that is neither 0 nor 1")
    return array


def _checked_contents(
    arrays: Arrays, metadata: dict[str, str], require_checksum: bool
) -> tuple[Arrays, dict[str, str]]:
    if CHECKSUM_KEY not in metadata:
        if require_checksum:
            raise _RefusedError("lacks the checksum that Chainrule writes, so it cannot be told whether it was altered")
        return arrays, metadata
    try:
        record = parse_strict_json(metadata[CHECKSUM_KEY])
    except ValueError:
        record = None
    match record:
        case {"metadata": texts, "order": list(names)} if _are_texts(texts) and set(map(str, names)) == set(arrays):
            ordered = {name: arrays[name] for name in map(str, names)}
            if len(metadata) == 1 and record == _record(ordered, texts):
                return ordered, texts
    raise _RefusedError("is damaged or was altered: its contents do not match the checksum stored with them")


def _are_texts(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


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
            yield name, f"of shape {tuple(shape)} is missing from it"
        elif found[name].shape != tuple(shape):
            yield name, f"has shape {found[name].shape} there and {tuple(shape)} in this network"
        elif found[name].dtype != np.dtype(dtype):
            yield name, f"has elements of type {found[name].dtype} there and {np.dtype(dtype)} in this network"
    for name, array in found.items():
        if name not in expected:
            yield name, f"of shape {array.shape} is there, and this network has no such array"
