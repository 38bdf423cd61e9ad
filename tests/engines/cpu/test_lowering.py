"""The steps from a graph to C: their texts, the checks after each of them, and ``CHAINRULE_DEBUG``."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.engines.cpu.test_programs import update_graph

import chainrule as cr
from chainrule.core.errors import ConfigError
from chainrule.engines.cpu import checks
from chainrule.engines.cpu.debugging import watcher
from chainrule.engines.cpu.engine import ENGINE
from chainrule.engines.cpu.grouping import Grouping
from chainrule.engines.cpu.lowering import STEPS, lower, steps_of
from chainrule.engines.cpu.memory import Memory, plan_memory
from chainrule.ir.build import Builder
from chainrule.ir.graph import ArrayType, Graph
from chainrule.ir.sizes import BATCH
from chainrule.passes import optimise

NAMES = [
    "inline calls",
    "widen bfloat16",
    "write as maps",
    "join products",
    "choose layouts",
    "choose stored values",
    "group into nests",
    "cut into sections",
    "keep conditions",
    "compute again",
    "plan memory",
    "write C",
]


def softmax_graph() -> Graph:
    """Several nests, because columns cannot be finished one by one; two of them share a slot of the arena."""
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 5), "float32"), "x")
    largest = builder.reduce_max(x, (0,))
    raised = builder.exp(builder.sub(x, builder.broadcast(largest, (BATCH, 5), (1,))))
    total = builder.reduce_sum(raised, (0,))
    shares = builder.div(raised, builder.broadcast(total, (BATCH, 5), (1,)))
    squares = builder.reduce_sum(builder.mul(shares, shares), (0,))
    return builder.finish("softmax", [builder.reduce_max(squares, (0,)), shares])


def loop_graph() -> Graph:
    inner = Builder()
    w, h, x = (inner.input(ArrayType(shape, "float32")) for shape in ((4, 4), (BATCH, 4), (BATCH, 4)))
    body = inner.finish("body", [inner.tanh(inner.add(inner.matmul(h, w), x))] * 2)
    builder = Builder()
    operands = [builder.input(ArrayType(shape, "float32")) for shape in ((4, 4), (BATCH, 4), (3, BATCH, 4))]
    return builder.finish("loop", builder.scan(body, operands, length=3, consts=1, carries=1, reverse=False))


def test_every_step_has_a_name_and_a_text():
    program = ENGINE.load(optimise(update_graph()), frozenset({0, 1}))
    steps = program.steps
    assert [name for name, _ in steps] == NAMES
    texts = dict(steps)
    assert texts["inline calls"].startswith('graph "update"(%0 "w": f32[37, 40]')
    assert "  %0: f32[37, 40] an input w" in texts["choose stored values"]
    assert "contract: [%2, %4, %3] -> [%6: f32[B, 40], %13: f32[]]" in texts["group into nests"]
    assert "result 0 is written over operand 0" in texts["plan memory"]
    assert texts["write C"] == program.c_source


def test_bodies_of_loops_are_shown_before_what_runs_them():
    for name, text in steps_of(loop_graph(), frozenset(), 32)[5:8]:
        assert text.index("graph_0 'body'") < text.index("graph_1 'loop'"), name


# --- the checks see what is wrong -------------------------------------------------------------------------------------


def grouped(graph: Graph) -> Grouping:
    grouping = Grouping(graph, lambda node: False)
    checks.check_stored(grouping)
    grouping.group()
    checks.check_nests(grouping)
    return grouping


def planned(donated: frozenset[int] = frozenset()) -> tuple[Grouping, Memory]:
    grouping = grouped(softmax_graph() if not donated else update_graph())
    memory = plan_memory(grouping, donated)
    checks.check_memory(grouping, memory, donated)
    return grouping, memory


def test_a_call_that_is_left_is_seen():
    inner = Builder()
    body = inner.finish("body", [inner.neg(inner.input(ArrayType((2,), "float32")))])
    builder = Builder()
    x = builder.input(ArrayType((2,), "float32"))
    with pytest.raises(AssertionError, match="a call is left"):
        checks.check_inlined(builder.finish("outer", builder.call(body, [x], label="body", backward=None)))


def test_a_value_without_memory_is_seen():
    grouping = Grouping(softmax_graph(), lambda node: False)
    grouping.stored.discard(grouping.results[0])
    with pytest.raises(AssertionError, match=r"reduce_max of type f32.* has no memory"):
        checks.check_stored(grouping)


def test_a_wrong_alias_is_seen():
    grouping = Grouping(softmax_graph(), lambda node: False)
    grouping.alias[grouping.results[0]] = grouping.graph.inputs[0]
    with pytest.raises(AssertionError, match="cannot have the bytes"):
        checks.check_stored(grouping)


def test_nests_out_of_order_are_seen():
    grouping = grouped(softmax_graph())
    grouping.nests.reverse()
    with pytest.raises(AssertionError, match="before it is written"):
        checks.check_nests(grouping)


def test_a_nest_that_does_not_say_what_it_reads_is_seen():
    grouping = grouped(softmax_graph())
    grouping.nests[-1].reads.popitem()
    with pytest.raises(AssertionError, match="and nothing says so"):
        checks.check_nests(grouping)


def test_a_nest_that_is_missing_or_runs_twice_is_seen():
    grouping = grouped(softmax_graph())
    grouping.nests.append(grouping.nests[0])
    with pytest.raises(AssertionError, match="is written twice"):
        checks.check_nests(grouping)
    del grouping.nests[-2:]
    with pytest.raises(AssertionError, match="is a result, and never written"):
        checks.check_nests(grouping)


def test_a_value_that_nothing_keeps_is_seen():
    grouping = grouped(softmax_graph())
    grouping.stored.discard(grouping.nests[0].written[0])
    with pytest.raises(AssertionError, match=r"which nothing keeps|which has no memory"):
        checks.check_nests(grouping)


def test_two_values_in_one_place_at_a_time_are_seen():
    grouping, memory = planned()
    held = [value for value, slot in memory.slots.items() if slot >= memory.fixed]
    assert len(memory.arena) > 1
    for value in held:
        memory.slots[value] = memory.fixed
    memory.arena[0] = BATCH * 1000
    with pytest.raises(AssertionError, match=r"is written over .* still to be read"):
        checks.check_memory(grouping, memory, frozenset())


def test_a_place_that_is_too_small_is_seen():
    grouping, memory = planned()
    memory.arena[0] = 4
    with pytest.raises(AssertionError, match="does not fit into arena slot"):
        checks.check_memory(grouping, memory, frozenset())


def test_an_operand_that_was_not_donated_is_kept():
    grouping, memory = planned(frozenset({0, 1}))
    assert memory.written_over == {0: 0, 1: 1}
    with pytest.raises(AssertionError, match="operand 0 was not donated"):
        checks.check_memory(grouping, memory, frozenset({1}))


def test_an_operand_written_over_too_early_is_seen():
    grouping, memory = planned()
    x = grouping.graph.inputs[0]
    memory.slots[grouping.nests[0].written[0]] = memory.slots[x]
    with pytest.raises(AssertionError, match="is written over input 'x', which is still to be read"):
        checks.check_memory(grouping, memory, frozenset({0}))


def test_a_result_in_the_wrong_place_is_seen():
    grouping, memory = planned()
    first, second = grouping.results
    memory.slots[first], memory.slots[second] = memory.slots[second], memory.slots[first]
    with pytest.raises(AssertionError, match="is not where the caller looks for it"):
        checks.check_memory(grouping, memory, frozenset())


def test_what_fails_is_named_with_its_step(monkeypatch):
    def twice(grouping: Grouping) -> None:
        group(grouping)
        grouping.nests.append(grouping.nests[0])

    group = Grouping.group
    monkeypatch.setattr(Grouping, "group", twice)
    with pytest.raises(AssertionError, match=r"lowering graph 'softmax', after 'group into nests': .* written twice"):
        lower(softmax_graph(), frozenset(), 32)


# --- CHAINRULE_DEBUG --------------------------------------------------------------------------------------------------


def test_steps_are_shown_on_standard_error(monkeypatch, capsys):
    monkeypatch.setenv("CHAINRULE_DEBUG", "1,memory,c")
    (found,) = ENGINE.load(update_graph())(
        [np.ones((37, 40), "f"), np.ones((37, 40), "f"), np.ones((2, 37), "f"), np.ones((2, 40), "f")]
    )[2:]
    assert found == 37 * 2 * 40
    shown = capsys.readouterr().err
    assert "--- update: plan memory\ngraph_0 'update'" in shown
    assert "--- update: write C\n" in shown and "CR_EXPORT void cr_run" in shown
    assert "group into nests" not in shown


def test_steps_are_written_into_a_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CHAINRULE_DEBUG", f"lowering:{tmp_path / 'steps'}")
    watch = watcher("a/name\n")
    lower(softmax_graph(), frozenset(), 32, watch)
    names = sorted(file.name[4:] for file in (tmp_path / "steps").iterdir())
    assert names == [
        f"a%2Fname%0A-{n:02d}-{step.key}.{'c' if step.key == 'c' else 'txt'}" for n, step in enumerate(STEPS, 1)
    ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("setting", ["", "0", "1", "yes,on"])
def test_nothing_is_shown_unasked(setting, monkeypatch):
    monkeypatch.setenv("CHAINRULE_DEBUG", setting)
    assert watcher("step") is None


def test_a_word_that_means_nothing_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CHAINRULE_DEBUG", "lowerin\x1b")
    with pytest.raises(
        ConfigError,
        match=r"'lowerin\\x1b'; it may have 1, lowering, inline, widen, maps, products, layouts, stored, nests, sections, "
        "conditions, again, memory, c",
    ):
        watcher("step")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHAINRULE_DEBUG", f"c:{tmp_path / 'file'}")
    with pytest.raises(ConfigError, match="cannot be written"):
        lower(softmax_graph(), frozenset(), 32, watcher("step"))


# --- through compile --------------------------------------------------------------------------------------------------


def test_a_compiled_function_shows_its_lowering_and_its_c():
    step = cr.compile(lambda x: cr.exp(x) * 2, engine="cpu", batch=("x",))
    with pytest.raises(ConfigError, match="has not been called yet, so there is no C source to show"):
        _ = step.c_source
    with pytest.raises(ConfigError, match="so there is no lowering to show"):
        _ = step.lowering
    step(np.ones((3, 2), "f"))
    assert "cr_exp_f32(" in step.c_source
    assert [name for name, _ in step.lowering] == NAMES
    assert step.lowering[-1][1] == step.c_source


@pytest.mark.parametrize(("inner", "stores"), [(1, True), (0, False)])
def test_what_has_zeros_between_its_elements_is_computed_once(inner, stores):
    builder = Builder()
    x = builder.input(ArrayType((BATCH, 4), "float32"), "x")
    y = builder.input(ArrayType((BATCH, 8), "float32"), "y")
    low, high = (1, 0) if inner else (2, 2)
    spread = builder.pad(x, (0, low), (0, high), (0, inner), 0.0)
    used = builder.add(spread, y)
    graph = builder.finish("spread", [builder.reduce_sum(used, (0,)), builder.reduce_max(used, (1,))])
    assert (used in Grouping(graph, lambda node: False).stored) == stores
    operands = [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 8), np.float32)]
    padded = np.zeros((3, 8), np.float32)
    padded[:, low : 8 - high : inner + 1] = operands[0]
    total, largest = ENGINE.load(graph)(operands)
    np.testing.assert_allclose(total, (padded + 1).sum(0))
    np.testing.assert_allclose(largest, (padded + 1).max(1))


def test_a_chain_of_maps_longer_than_any_recursion():
    def function(x):
        for k in range(1500):
            x = x * 1.01 if k % 2 else x - 0.5
        return x

    x = np.linspace(-1, 1, 33)
    program = ENGINE.load(optimise(cr.trace(function, x)))
    np.testing.assert_allclose(program([x])[0], function(x), rtol=1e-12)


def test_the_guide_has_every_step_and_every_word():
    text = (Path(__file__).parents[3] / "docs" / "cpu_engine.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([\w ]+) \| `(\w+)` \|", text, re.MULTILINE) == [(step.name, step.key) for step in STEPS]
    (words,) = re.findall(r"shows all steps on standard error, (.*) one each;", text)
    assert re.findall(r"`(\w+)`", words) == [step.key for step in STEPS]
