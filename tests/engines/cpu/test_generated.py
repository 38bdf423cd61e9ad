"""Programs from the cache: what is generated once, by which process ever, is not generated again; and sources in parts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.errors import ShapeError
from chainrule.engines.api import Preparation
from chainrule.engines.cpu import cache, generated, loading, parts, sections, straight
from chainrule.engines.cpu.cache import Cache
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.toolchain import CompilerError, Toolchain, find_toolchain
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Graph, Origin
from chainrule.ir.sizes import BATCH, shape_at
from chainrule.testing import random_program


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAINRULE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CHAINRULE_DEBUG", raising=False)
    monkeypatch.setattr(loading, "_loaded", {})
    return tmp_path / "cache"


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*.json") if b"cr_run" in path.read_bytes()]


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the graphs that were lowered."""
    names: list[str] = []
    lower: Callable[..., Any] = generated.lower

    def noted(graph: Graph, *rest: Any) -> Any:
        names.append(graph.name)
        return lower(graph, *rest)

    monkeypatch.setattr(generated, "lower", noted)
    return names


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of parts of every compilation."""
    counts: list[int] = []
    compile: Callable[..., Any] = Toolchain.compile

    def noted(self: Toolchain, sources: Any, *rest: Any, **more: Any) -> Any:
        counts.append(1 if isinstance(sources, str) else len(sources))
        return compile(self, sources, *rest, **more)

    monkeypatch.setattr(Toolchain, "compile", noted)
    return counts


def graph(
    name: str = "example", table: Any = (1.0, 2.0, 3.0), rank: int = 1, function: str = "exp", line: int = 1
) -> Graph:
    builder = Builder()
    builder.origin = Origin("layer", "model.py", line)
    x = builder.input(ArrayType((BATCH, 3), "float64"), "x")
    shift = builder.broadcast(builder.constant(np.full((3,) * rank, 0.5)), (3,), (0,)) if rank != 1 else None
    row = builder.constant(np.asarray(table), "float64")
    product = builder.mul(x, builder.broadcast(row, x.shape, (1,)))
    return builder.finish(
        name,
        [*builder.emit(function, [product]), builder.constant(np.arange(4.0), "float64")] + ([shift] if shift else []),
    )


X = np.linspace(-1, 1, 12).reshape(4, 3)


def run(source: Graph, donated: frozenset[int] = frozenset()) -> Any:
    program = ENGINE.load(source, donated)
    return program, program([X.copy()])


def test_a_graph_is_lowered_and_compiled_once(lowered: list[str], compiled: list[int]) -> None:
    loading.load_runtime()
    compiled.clear()
    first, found = run(graph())
    again, others = run(graph())
    assert lowered == ["example"] and compiled == [1]
    assert again.c_source == first.c_source
    for a, b in zip(found, others, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(found[0], np.exp(X * [1, 2, 3]), rtol=1e-14)
    np.testing.assert_array_equal(found[1], np.arange(4.0))


CHANGES = [
    *("name", "a constant's content", "a node", "where a node comes from", "what is donated", "the preparation"),
    *("the generator", "a limit of small graphs", "a limit of sections", "the compiler"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_another_program(change: str, lowered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(graph())
    match change:
        case "name":
            run(graph("another"))
        case "a constant's content":
            _, (found, _) = run(graph(table=(1.0, 2.0, 4.0)))
            np.testing.assert_allclose(found, np.exp(X * [1, 2, 4]), rtol=1e-14)
        case "a node":
            run(graph(function="expm1"))
        case "where a node comes from":
            run(graph(line=2))
        case "the preparation":
            ENGINE.load(graph(), preparation=Preparation("another", lambda graph: graph))
        case "a limit of small graphs":
            monkeypatch.setattr(straight, "MOST_OPERATIONS", 1)
            run(graph())
        case "a limit of sections":
            monkeypatch.setattr(sections, "LIMITS", replace(sections.LIMITS, most_rows=7))
            run(graph())
        case "what is donated":
            program = ENGINE.load(graph(), frozenset({0}))
            operand = X.copy()
            assert program([operand])[0] is operand
        case "the generator":
            monkeypatch.setattr(generated, "code_digest", lambda *packages: "another version")
            run(graph())
        case "the compiler":
            monkeypatch.setenv("CFLAGS", "-O1")
            run(graph())
    assert len(lowered) == 2


def test_written_over_operands_and_constants_come_from_the_cache(lowered: list[str]) -> None:
    for _ in range(2):
        program = ENGINE.load(graph(), frozenset({0}))
        operand = X.copy()
        found, constant = program([operand])
        assert found is operand
        np.testing.assert_allclose(found, np.exp(X * [1, 2, 3]), rtol=1e-14)
        np.testing.assert_array_equal(constant, np.arange(4.0))
    assert len(lowered) == 1


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_from_the_cache_give_the_same_bits(seed: int, lowered: list[str]) -> None:
    source = random_program(random.Random(seed).choice, dtype="float64", steps=14)
    operands = [
        np.random.default_rng(seed).normal(size=shape_at(value.shape, 3)).astype(value.dtype) for value in source.inputs
    ]
    first, again = ENGINE.load(source)(operands), ENGINE.load(source)(operands)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert len(lowered) == 1


def test_a_damaged_entry_is_made_again(folder: Path, lowered: list[str]) -> None:
    run(graph())
    (entry,) = entries(folder)
    text = entry.read_bytes()
    entry.write_bytes(text.replace(b"written_over", b"written_ovEr"))
    run(graph())
    assert len(lowered) == 2
    assert entry.read_bytes() == text


def test_an_entry_is_nothing_but_data(folder: Path) -> None:
    program, _ = run(graph())
    (entry,) = entries(folder)
    kept = json.loads(entry.read_bytes())
    (library,) = [path for path in folder.glob("??/*.so") if path.name.startswith(kept.pop("library"))]
    assert library.is_file()
    assert kept == {"text": program.c_source, "constants": [0, 1], "written_over": [], "searched": []}


def replace_entry(entry: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As somebody would who knows how hashes are named."""
    kept = json.loads(entry.read_bytes())
    change(kept)
    data = json.dumps(kept).encode()
    key, _, _ = entry.name.partition("-")
    entry.unlink()
    entry.with_name(f"{key}-{cache._hash(data)}.json").write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("constants"),
        lambda kept: kept.update(constants=[0, 7]),
        lambda kept: kept.update(constants=[0, {"dtype": "float64", "shape": [5], "data": ""}]),
        lambda kept: kept.update(written_over=[[0, 0]]),
        lambda kept: kept.update(written_over=[[0, 3]]),
        lambda kept: kept.update(searched=[["argmax", "B*"]]),
        lambda kept: kept.update(searched=None),
    ],
)
def test_an_entry_that_does_not_fit_the_graph_is_made_again(
    change: Callable[[dict[str, Any]], object], folder: Path, lowered: list[str]
) -> None:
    _, expected = run(graph())
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    replace_entry(entry, change)
    _, found = run(graph())
    assert len(lowered) == 2
    assert entry.read_bytes() == whole
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_library_that_is_gone_is_compiled_again_without_lowering(
    folder: Path, lowered: list[str], compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(graph())
    for library in folder.glob("??/*.so"):
        library.unlink()
    monkeypatch.setattr(loading, "_loaded", {})
    compiled.clear()
    run(graph())
    assert lowered == ["example"] and compiled == [1]


# --- preparation ------------------------------------------------------------------------------------------------------


def given() -> Graph:
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 3), "float64"), "x")
    return builder.finish("given", [builder.neg(x), builder.constant(np.arange(3.0), "float64")])


def test_what_is_in_the_cache_is_prepared_only_to_be_looked_at(lowered: list[str]) -> None:
    prepared: list[str] = []

    def prepare(source: Graph) -> Graph:
        """x + [7, 8, 9] + the largest of each column instead, with a constant that the graph given does not have."""
        prepared.append(source.name)
        builder = Builder()
        x = builder.input(source.inputs[0].type, "x")
        row = builder.constant(np.array([7.0, 8.0, 9.0]), "float64")
        largest = builder.broadcast(builder.reduce_max(x, (0,)), x.shape, (1,))
        total = builder.add(builder.add(x, builder.broadcast(row, x.shape, (1,))), largest)
        return builder.finish(source.name, [total, row])

    for _ in range(2):
        program = ENGINE.load(given(), preparation=Preparation("other sums", prepare))
        total, row = program([X])
        np.testing.assert_array_equal(total, X + np.array([7, 8, 9]) + X.max(0))
        np.testing.assert_array_equal(row, [7, 8, 9])
        with pytest.raises(ShapeError, match=r"reduce_max in .*: the largest element of an empty batch is not defined"):
            program([X[:0]])
    assert prepared == lowered == ["given"]
    assert "reduce_max" in {node.primitive.name for node in program.graph.nodes}
    assert len(prepared) == 2


def test_without_a_folder_that_can_be_written_to_programs_are_still_made(
    folder: Path, lowered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Cache, key: str, suffix: str, make: Callable[[Path], None]) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generated, "open_cache", lambda: (type("Full", (), {"obtain": full})(), None))
    run(graph())
    assert len(lowered) == 1


def test_showing_the_lowering_does_it_again(
    lowered: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(graph())
    monkeypatch.setenv("CHAINRULE_DEBUG", "c")
    run(graph())
    assert len(lowered) == 2
    assert "CR_EXPORT void cr_run" in capfd.readouterr().err


# --- parts ------------------------------------------------------------------------------------------------------------


def test_small_sources_are_compiled_in_one_part() -> None:
    program, _ = run(graph())
    assert parts.parts_of(program.c_source) == [program.c_source]


def many(seed: int) -> Graph:
    return random_program(random.Random(seed).choice, dtype="float64", steps=30)


@pytest.mark.parametrize("seed", range(3))
def test_parts_compute_what_the_whole_does(seed: int, compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    source = many(seed)
    operands = [
        np.random.default_rng(seed).normal(size=shape_at(value.shape, 5)).astype(value.dtype) for value in source.inputs
    ]
    whole = ENGINE.load(source)
    expected = whole(operands)
    compiled.clear()
    monkeypatch.setattr(parts, "PART", 300)
    apart = ENGINE.load(source)
    assert len(compiled) == 1 and compiled[0] > 2
    assert apart.c_source == whole.c_source
    for a, b, c in zip(apart(operands), expected, REFERENCE.load(source)(operands), strict=True):
        assert a.tobytes() == b.tobytes()
        np.testing.assert_allclose(a, c, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_training_step_in_parts(dtype: str, compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Contractions with tiles that several nests share, transposed copies, and a loop with a body of its own."""

    def step(w: Any, x: Any) -> Any:
        def loss(w: Any) -> Any:
            hidden, _ = cr.scan(lambda h, _: (cr.tanh(h @ w["u"] + 0.1), h.sum()), cr.tanh(x @ w["v"]), None, length=3)
            return cr.square(hidden @ w["v"].T - x).mean()

        return cr.value_and_grad(loss)(w)

    rng = np.random.default_rng(0)
    shapes = {"u": (48, 48), "v": (96, 48)}
    w = {name: (0.1 * rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}
    x = rng.normal(size=(70, 96)).astype(dtype)
    expected = cr.compile(step, engine="reference", batch="x")(w, x)
    whole = cr.compile(step, engine="cpu", batch="x")(w, x)
    compiled.clear()
    monkeypatch.setattr(parts, "PART", 500)
    apart = cr.compile(step, engine="cpu", batch="x")(w, x)
    assert len(compiled) == 1 and compiled[0] > 5
    assert apart[0] == whole[0]
    for name in shapes:
        assert apart[1][name].tobytes() == whole[1][name].tobytes()
        np.testing.assert_allclose(apart[1][name], expected[1][name], rtol=1e-4, atol=1e-5)


def test_every_function_is_in_one_part_and_the_cut_depends_on_the_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ENGINE.load(many(0)).c_source
    monkeypatch.setattr(parts, "PART", 300)
    cut = parts.parts_of(text)
    assert cut == parts.parts_of(text)
    names = parts._DEALT.findall(text)
    assert len(names) > 3
    for name in names:
        assert sum(f"{name} {{" in part for part in cut) == 1
        assert all(f"{name};" in part for part in cut)
    assert "CR_EXPORT" in cut[0] and not any("CR_EXPORT" in part for part in cut[1:])


def test_a_source_for_two_parts_is_cut_for_four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ENGINE.load(many(0)).c_source
    dealt = sum(len(found.group()) for found in parts._DEALT.finditer(text))
    for wanted, made in ((1, 1), (2, 4), (3, 4), (4, 5)):
        monkeypatch.setattr(parts, "PART", dealt // wanted)
        assert len(parts.parts_of(text)) == made


def test_a_part_that_does_not_compile_is_reported(tmp_path: Path) -> None:
    found = find_toolchain()
    assert isinstance(found, Toolchain)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(CompilerError, match=r"failed while compiling three parts: .*error"):
        found.compile(["int a;", "int b", "int c;"], work / "made.so", name="three parts")


def test_the_cache_is_read_before_anything_is_generated(folder: Path) -> None:
    """A second process finds everything there."""
    run(graph())
    before = sorted(folder.rglob("*.*"))
    stamps = {path: path.stat().st_mtime_ns for path in before}
    loading._loaded.clear()
    cache._opened.cache_clear()
    run(graph())
    assert sorted(folder.rglob("*.*")) == before
    assert {path: path.stat().st_mtime_ns for path in before} == stamps
