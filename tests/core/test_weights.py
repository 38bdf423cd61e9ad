"""Weight files: arrays of every kind come back exactly, and a file that lies, breaks off or was altered is refused."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from chainrule.core import weights
from chainrule.core.errors import RunError, WeightsError
from chainrule.core.weights import CHECKSUM_KEY, DTYPES, check_same_architecture, load_weights, save_weights

ARRAYS = {
    "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers.0.bias": np.array([np.nan, -0.0, np.inf]),
    "step": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 5), np.float32),
    "mask": np.array([True, False, True]),
    "keys": np.array([1, 2**32 - 1], dtype=np.uint32),
}


def raw_file(header: object, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with any header, sensible or not; text is taken as it is."""
    text = header.encode("utf-8") if isinstance(header, str) else json.dumps(header).encode("utf-8")
    return struct.pack("<Q", len(text)) + text + data


def refusal(folder: Path, content: bytes, **options: Any) -> str:
    file = folder / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_weights(file, **options)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert message.isprintable()
    return message.removeprefix(str(file)).strip()


def one(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# --- what is written comes back ---------------------------------------------------------------------------------------


def test_arrays_and_metadata_come_back_exactly_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(file, ARRAYS, {"format": "1", "größe": "\ud800\n"})
    arrays, metadata = load_weights(file, require_checksum=True)
    assert metadata == {"format": "1", "größe": "\ud800\n"}
    assert list(arrays) == list(ARRAYS)
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        assert array.shape == ARRAYS[name].shape
        assert array.tobytes() == ARRAYS[name].tobytes()
        assert array.flags.writeable
        assert array.flags.aligned
        assert array.flags.c_contiguous
        assert array.flags.owndata


@pytest.mark.parametrize("code", DTYPES)
def test_every_element_type_comes_back(tmp_path: Path, code: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2 if code == "BOOL" else 256, 48, dtype=np.uint8)
    array = bits.view(DTYPES[code])
    save_weights(tmp_path / "m", {"a": array})
    found = load_weights(tmp_path / "m")[0]["a"]
    assert found.dtype == DTYPES[code]
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(">f8"),
        lambda array: np.asfortranarray(array),
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array[::-1][::-1],
        lambda array: np.frombuffer(array.tobytes()).reshape(array.shape),  # read-only
        lambda array: np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float64).reshape(array.shape),
        lambda array: np.broadcast_to(array[:1], array.shape),
    ],
    ids=["big-endian", "Fortran", "strided", "reversed twice", "read-only", "unaligned", "broadcast"],
)
def test_any_memory_layout_is_stored_by_value(tmp_path: Path, change: Callable[..., Any]) -> None:
    array = np.arange(12.0).reshape(3, 4)
    given = change(array)
    save_weights(tmp_path / "m", {"a": given})
    np.testing.assert_array_equal(load_weights(tmp_path / "m")[0]["a"], given)


def test_no_arrays_at_all_come_back(tmp_path: Path) -> None:
    save_weights(tmp_path / "m", {})
    assert load_weights(tmp_path / "m") == ({}, {})


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    save_weights(tmp_path / "a", ARRAYS, {"k": "v"})
    save_weights(tmp_path / "b", {name: np.copy(array) for name, array in ARRAYS.items()}, {"k": "v"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_reference_implementation_of_the_format_agrees_both_ways(tmp_path: Path) -> None:
    save_weights(tmp_path / "ours", ARRAYS, {"k": "v"})
    theirs = safetensors.numpy.load_file(tmp_path / "ours")
    assert {name: array.tobytes() for name, array in theirs.items()} == {n: a.tobytes() for n, a in ARRAYS.items()}
    assert {name: array.shape for name, array in theirs.items()} == {n: a.shape for n, a in ARRAYS.items()}
    safetensors.numpy.save_file(ARRAYS, tmp_path / "theirs", {"k": "v"})
    arrays, metadata = load_weights(tmp_path / "theirs")
    assert metadata == {"k": "v"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_bfloat16_is_exchanged_with_pytorch(tmp_path: Path) -> None:
    numbers = torch.tensor([[1.0, -0.0, 3e38], [1e-40, float("inf"), -2.5]]).to(torch.bfloat16)
    safetensors.torch.save_file({"a": numbers}, tmp_path / "theirs")
    array = load_weights(tmp_path / "theirs")[0]["a"]
    assert array.dtype.name == "bfloat16"
    np.testing.assert_array_equal(array.astype(np.float32), numbers.float().numpy())
    save_weights(tmp_path / "ours", {"a": array.T})
    back = safetensors.torch.load_file(tmp_path / "ours")["a"]
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, numbers.T)


def test_a_header_of_any_length_is_read(tmp_path: Path) -> None:
    for length in range(0, 300, 4):  # among them headers whose length begins with the byte with which pickles begin
        save_weights(tmp_path / "m", {"a": np.zeros(1)}, {"k": "v" * length})
        assert load_weights(tmp_path / "m")[1] == {"k": "v" * length}


def test_every_tensor_begins_at_a_multiple_of_its_element_size(tmp_path: Path) -> None:
    save_weights(tmp_path / "m", {"a": np.zeros(3, np.uint8), "b": np.zeros(1), "c": np.zeros(1, np.float16)})
    content = (tmp_path / "m").read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert [header[name]["data_offsets"] for name in "abc"] == [[10, 13], [0, 8], [8, 10]]


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.array(["x"]), np.array([None]), np.zeros(1, "M8[s]")])
def test_elements_without_a_type_in_the_format_are_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(WeightsError, match=r"elements of 'layer\.w'"):
        save_weights(tmp_path / "m", {"layer.w": array})
    assert not (tmp_path / "m").exists()


def test_hostile_names_and_reserved_metadata_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="path separator"):
        save_weights(tmp_path / "m", {"../w": np.zeros(1)})
    with pytest.raises(WeightsError, match="metadata"):
        save_weights(tmp_path / "m", {}, {CHECKSUM_KEY: "0"})
    assert not (tmp_path / "m").exists()


def test_a_failed_save_keeps_the_old_weights(small_disk: Path) -> None:
    file = small_disk / "model.safetensors"
    save_weights(file, {"w": np.arange(1000.0)})
    with pytest.raises(RunError, match=r"model\.safetensors: the disk is full"):
        save_weights(file, {"w": np.zeros(100_000)})
    np.testing.assert_array_equal(load_weights(file)[0]["w"], np.arange(1000.0))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "whole", ARRAYS)
    content = (tmp_path / "whole").read_bytes()
    for length in range(len(content)):
        message = refusal(tmp_path, content[:length])
        assert "truncated" in message or "not a safetensors file" in message
    assert "bytes after its last tensor" in refusal(tmp_path, content + b"\0")


def test_one_flipped_bit_in_the_numbers_is_recognised(tmp_path: Path) -> None:
    save_weights(tmp_path / "whole", {"a": np.zeros(4), "b": np.ones(3, np.int32)})
    content = bytearray((tmp_path / "whole").read_bytes())
    for position in range(len(content) - 44, len(content)):
        content[position] ^= 4
        assert "was altered" in refusal(tmp_path, bytes(content))
        content[position] ^= 4


def test_altered_metadata_names_and_swapped_tensors_are_recognised(tmp_path: Path) -> None:
    save_weights(tmp_path / "whole", {"up": np.zeros(2), "dn": np.ones(2)}, {"epoch": "7"})
    content = (tmp_path / "whole").read_bytes()
    epoch = rb"\"epoch\":\"7\""
    assert content.count(epoch) == 1
    assert "was altered" in refusal(tmp_path, content.replace(epoch, epoch.replace(b"7", b"8")))
    assert "was altered" in refusal(tmp_path, content.replace(b'"up"', b'"uq"'))
    swapped = content.replace(b'"up"', b'"??"').replace(b'"dn"', b'"up"').replace(b'"??"', b'"dn"')
    assert "was altered" in refusal(tmp_path, swapped)


def test_a_file_without_checksum_is_read_unless_one_is_required(tmp_path: Path) -> None:
    content = raw_file({"a": one()}, np.ones(2, np.float32).tobytes())
    (tmp_path / "m").write_bytes(content)
    np.testing.assert_array_equal(load_weights(tmp_path / "m")[0]["a"], [1, 1])
    assert "lacks the checksum" in refusal(tmp_path, content, require_checksum=True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "only 0 bytes"),
        (b"1234567", "only 7 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "declares a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", 3) + b"{}", "truncated"),
        (struct.pack("<Q", 0), "not a JSON object"),
        (raw_file("[]"), "not a JSON object"),
        (raw_file(' {"a": 1}'), "not a JSON object"),
        (raw_file('{"a": '), "damaged header: line 1"),
        (raw_file("{" + '"a":{' * 50_000), "nested too deeply"),
        (raw_file('{"a": {"dtype": "F32", "dtype": "F64"}}'), "'dtype' is there twice"),
        (raw_file('{"a": [], "a": []}'), "'a' is there twice"),
        (raw_file({"a": one(shape=[10**5000 // 10**4990, 1]) | {"x": 1}}), "not described by dtype"),
        (raw_file({"a": [1, 2]}), "not described by dtype"),
        (raw_file({"a": ["F32", [2], [0, 8]]}, bytes(8)), "not described by dtype"),  # the library would take a list
        (raw_file({"a": {"dtype": "F32", "shape": [2]}}), "not described by dtype"),
        (raw_file({"__metadata__": {"a": 1}}), "metadata is not an object of texts"),
        (raw_file('{"__metadata__": {"k": "1", "k": "2"}}'), "'k' is there twice"),
        (raw_file({"__metadata__": None}), "metadata is not an object of texts"),
        (raw_file({"__metadata__": []}), "metadata is not an object of texts"),
        (raw_file({"a": one("F8_E4M3", (4,), (0, 4))}, b"1234"), "type F8_E4M3, which is not supported"),
        (raw_file({"a": one(dtype="\x1b[2J")}), r"type \x1b[2J"),
        (raw_file({"a": one() | {"dtype": ["F32"]}}), "not supported"),
        (raw_file({"a": one(shape=[-2])}, bytes(8)), "damaged header: invalid value: integer `-2`"),
        (raw_file({"a": one(shape=[2.0])}, bytes(8)), "damaged header: invalid type: floating point `2.0`"),
        (raw_file({"a": one(shape=[True, 2])}, bytes(8)), "damaged header: invalid type: boolean `true`"),
        (raw_file({"a": one(shape="2")}, bytes(8)), 'damaged header: invalid type: string "2"'),
        (raw_file({"a": one(shape=[1] * 33 + [2])}, bytes(8)), "holds 'a' with 34 axes, and 32 are allowed"),
        (
            raw_file({"a": one(shape=[2**64])}, bytes(8)),
            "damaged header: invalid type: floating point `1.844",
        ),
        (raw_file({"a": one(shape=[2**62])}, bytes(8)), "damaged header: overflow computing buffer size"),
        (raw_file({"a": one(shape=[0, 2**62], offsets=(0, 0))}), "larger than any memory"),
        (
            raw_file({"a": one(shape=[2**31, 2**31, 4], offsets=(0, 0))}),
            "damaged header: overflow computing buffer size",
        ),
        (raw_file({"a": one(shape=[3])}, bytes(8)), "damaged header: invalid shape, data type, or offset"),
        (raw_file({"a": one(offsets=(8, 0))}, bytes(8)), "damaged header: invalid offset for tensor `a`"),
        (raw_file({"a": one(offsets=(0, 8, 8))}, bytes(8)), "damaged header: invalid length 3, expected 2"),
        (raw_file({"a": one(offsets=(-8, 0))}, bytes(8)), "damaged header: invalid value: integer `-8`"),
        (raw_file({"a": one(offsets=(8, 16))}, bytes(16)), "damaged header: invalid offset for tensor `a`"),
        (raw_file({"a": one(), "b": one(offsets=(9, 17))}, bytes(17)), "damaged header: invalid offset for tensor `b`"),
        (raw_file({"a": one(shape=[2**64 - 1, 0], offsets=(0, 0))}), "larger than any memory"),
        (raw_file({"a": one(), "b": one(offsets=(4, 12))}, bytes(12)), "damaged header: invalid offset for tensor `b`"),
        (raw_file({"a": one(), "b": one()}, bytes(16)), "damaged header: invalid offset for tensor"),
        (
            raw_file({"a": one("F64", (2**40,), (0, 2**43))}, bytes(8)),
            "its tensors need 8796093022208 bytes and it has 8",
        ),
        (raw_file({"../a": one()}, bytes(8)), "path separator"),
        (raw_file({"a\x1b[31m": one()}, bytes(8)), r"'a\x1b[31m' cannot be the name"),
        (raw_file({"a\u202e": one()}, bytes(8)), r"\u202e"),
        (raw_file({"": one()}, bytes(8)), "it is empty"),
        (raw_file({"a" * 1000: one()}, bytes(8)), "1000 characters"),
        (raw_file({"a": one("BOOL", (2,), (0, 2))}, b"\1\2"), "neither 0 nor 1"),
        (b"PK\x03\x04" + bytes(100), "looks like a pickle"),
        (b"\x80\x04\x95" + bytes(100), "looks like a pickle"),
        (b"<html><body>Sign in</body></html>", "not a safetensors file"),
    ],
)
def test_files_that_lie_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    assert problem in refusal(tmp_path, content)


def record_of(content: bytes) -> dict[str, Any]:
    [length] = struct.unpack("<Q", content[:8])
    record: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][CHECKSUM_KEY])
    return record


@pytest.mark.parametrize(
    "change",
    [
        {"order": ["b", "a"]},
        {"order": ["a"]},
        {"order": ["a", "b", "b"]},
        {"order": ["a", "b", "c"]},
        {"order": [["a"], "b"]},
        {"order": {"a": 1, "b": 2}},
        {"metadata": {"epoch": "8"}},
        {"metadata": {"epoch": 7}},
        {"metadata": []},
        {"sha256": "0" * 64},
        {"sha256": None},
        {"more": "x"},
    ],
)
def test_an_altered_record_of_the_contents_is_recognised(tmp_path: Path, change: dict[str, object]) -> None:
    arrays = {"a": np.zeros(2), "b": np.ones(2)}
    save_weights(tmp_path / "whole", arrays, {"epoch": "7"})
    record = record_of((tmp_path / "whole").read_bytes())
    content = safetensors.numpy.save(arrays, {CHECKSUM_KEY: json.dumps(record | change)})
    assert "was altered" in refusal(tmp_path, content)


@pytest.mark.parametrize("record", ["", "[]", "7", "{", "[[", '{"order": []}', '{"metadata": {}}', "\x80"])
def test_a_record_that_is_none_is_refused(tmp_path: Path, record: str) -> None:
    assert "was altered" in refusal(tmp_path, safetensors.numpy.save({}, {CHECKSUM_KEY: record}))


def test_metadata_beside_the_record_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "whole", {})
    record = json.dumps(record_of((tmp_path / "whole").read_bytes()))
    assert "was altered" in refusal(tmp_path, safetensors.numpy.save({}, {CHECKSUM_KEY: record, "epoch": "7"}))


def test_a_file_beyond_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: bytes) -> None:
        raise MemoryError

    save_weights(tmp_path / "m", {"a": np.zeros(1)})
    monkeypatch.setattr("safetensors.deserialize", fail)
    with pytest.raises(WeightsError, match="m does not fit into the memory"):
        load_weights(tmp_path / "m")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "m", {"a": np.zeros(5000)})
    length_of = weights._header_length

    def shrink(start: bytes, size: int) -> int:
        os.truncate(tmp_path / "m", 20_000)
        return length_of(start, size)

    monkeypatch.setattr(weights, "_header_length", shrink)
    with pytest.raises(WeightsError, match="truncated"):
        load_weights(tmp_path / "m")


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrule.core.weights.MOST_TENSORS", 3)
    header = {str(number): one(shape=[0], offsets=(0, 0)) for number in range(4)}
    assert "declares 4 tensors" in refusal(tmp_path, raw_file(header))


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainrule.core.weights.LARGEST_HEADER", 10)
    assert "and 10 are allowed" in refusal(tmp_path, raw_file({"a": one()}, bytes(8)))


def test_an_altered_shape_with_zero_size_still_loads_where_numpy_can_hold_it(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(raw_file({"a": one(shape=[2**60, 0], offsets=(0, 0))}))
    assert load_weights(tmp_path / "m")[0]["a"].shape == (2**60, 0)


def test_things_that_are_not_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent does not exist"):
        load_weights(tmp_path / "absent")
    with pytest.raises(WeightsError, match="is not a regular file"):
        load_weights(tmp_path)


# --- another architecture ---------------------------------------------------------------------------------------------

NETWORK = {"layers.0.weight": ((4, 8), np.float32), "layers.0.bias": ((8,), np.float32)}


def arrays_of(shapes: dict[str, tuple[tuple[int, ...], Any]]) -> dict[str, Any]:
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}


def test_the_same_architecture_passes_in_any_order() -> None:
    check_same_architecture(NETWORK, dict(reversed(arrays_of(NETWORK).items())), "m")
    check_same_architecture({"a": ((2,), np.dtype(">f4"))}, {"a": np.zeros(2, ">f4")}, "m")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"layers.0.weight": ((4, 9), np.float32)},
            "'layers.0.weight' has shape (4, 9) there and (4, 8) in this",
        ),
        ({"layers.0.bias": ((), np.float32)}, "'layers.0.bias' has shape () there and (8,) in this network"),
        ({"layers.0.bias": ((8,), np.float64)}, "'layers.0.bias' has elements of type float64 there and float32"),
        (
            {"layers.1.bias": ((2,), np.float32)},
            "'layers.1.bias' of shape (2,) is there, and this network has no",
        ),
    ],
)
def test_the_first_difference_is_named(change: dict[str, tuple[tuple[int, ...], Any]], problem: str) -> None:
    with pytest.raises(WeightsError) as caught:
        check_same_architecture(NETWORK, arrays_of(NETWORK | change), Path("runs/m.safetensors"))
    assert str(caught.value).startswith(f"runs/m.safetensors holds weights for another network: {problem}")


def test_a_missing_array_is_named_before_later_differences() -> None:
    with pytest.raises(WeightsError, match=r"'layers\.0\.weight' of shape \(4, 8\) is missing from it"):
        check_same_architecture(NETWORK, {"layers.0.bias": np.zeros(3), "more": np.zeros(1)}, "m")
