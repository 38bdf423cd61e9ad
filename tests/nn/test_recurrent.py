"""RNN, LSTM and GRU against PyTorch: values, gradients, packed sequences, states, and state carried across batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, DataError, DTypeError, ShapeError
from chainrule.core.trees import replace_leaves

NDArray = np.ndarray[Any, Any]
KINDS: dict[str, tuple[Any, Any]] = {
    "rnn": (nn.RNN, torch.nn.RNN),
    "lstm": (nn.LSTM, torch.nn.LSTM),
    "gru": (nn.GRU, torch.nn.GRU),
}
N, T, C, H = 4, 5, 3, 2


def paths(layers: int, bidirectional: bool, bias: bool, projects: bool = False) -> dict[str, str]:
    """Our paths of a layer's parameters and PyTorch's names of them."""
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else []), *(["weight_hr"] if projects else [])]
    return {
        f"{place}.{number}.{kind}": f"{kind}_l{number}{suffix}"
        for number in range(layers)
        for place, suffix in [("layers", ""), ("reverse_layers", "_reverse")][: 1 + bidirectional]
        for kind in kinds
    }


def pair(
    kind: str, layers: int = 1, bidirectional: bool = False, bias: bool = True, **settings: Any
) -> tuple[Any, Any]:
    """A layer of ours in float64 and PyTorch's with the same weights, drawn at random."""
    ours, theirs = KINDS[kind]
    both = {"bidirectional": bidirectional, "bias": bias}
    shared = {k: v for k, v in settings.items() if k in ("nonlinearity", "proj_size")}
    torch.manual_seed(1)
    expected = theirs(C, H, layers, batch_first=True, **both, **shared).double()
    held = dict(expected.named_parameters())
    names = paths(layers, bidirectional, bias, "proj_size" in settings)
    model = ours(C, H, layers, **both, **settings).astype("float64")
    assert set(names) == set(model.named_parameters())
    return replace_leaves(model, {our: held[their].detach().numpy().T for our, their in names.items()}), expected


def as_tuple(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def check(kind: str, engine: str, *, lengths: Any = None, start: bool = False, **options: Any) -> None:
    """Output, last state, and the gradients of parameters, input and initial state."""
    model, theirs = pair(kind, **options)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N, T, C))
    count = options.get("layers", 1) * (2 if options.get("bidirectional") else 1)
    parts = 2 if kind == "lstm" else 1
    state = [rng.normal(size=(N, count, size)) for size in (options.get("proj_size", H), H)[:parts]]
    leaves = [torch.tensor(part, requires_grad=True) for part in state]
    leaf = torch.tensor(x, requires_grad=True)
    given = tuple(part.transpose(0, 1).contiguous() for part in leaves) if start else None
    given = given[0] if given is not None and parts == 1 else given
    if lengths is None:
        out, end = theirs(leaf, given)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.tensor(lengths), True, enforce_sorted=False)
        found, end = theirs(packed, given)
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=T)
    ends = [part.transpose(0, 1) for part in as_tuple(end)]
    probes = [rng.normal(size=tuple(value.shape)) for value in (out, *ends)]
    sum((value * torch.tensor(probe)).sum() for value, probe in zip((out, *ends), probes, strict=True)).backward()

    def loss(model: Any, x: Any, state: Any) -> Any:
        first = (state if parts > 1 else state[0]) if start else None
        out, end = model(x, first, lengths=None if lengths is None else np.asarray(lengths))
        results = (out, *as_tuple(end))
        return sum((value * probe).sum() for value, probe in zip(results, probes, strict=True)), results

    step = cr.compile(
        lambda model, x, state: cr.value_and_grad(loss, (0, 1, 2), has_aux=True)(model, x, state), engine=engine
    )
    (_, results), (gradients, to_x, to_state) = step(model, x, tuple(state))
    for value, expected in zip(results, (out, *ends), strict=True):
        np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    held = dict(theirs.named_parameters())
    settings = options.get("layers", 1), options.get("bidirectional", False), options.get("bias", True)
    names = paths(*settings, "proj_size" in options)
    for path, found in gradients.named_parameters().items():
        expected = held[names[path]].grad.numpy().T
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11, err_msg=path)
    assert leaf.grad is not None
    np.testing.assert_allclose(to_x, leaf.grad.numpy(), rtol=1e-9, atol=1e-11)
    if start:
        for found, part in zip(to_state, leaves, strict=True):
            assert part.grad is not None
            np.testing.assert_allclose(found, part.grad.numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_two_layers_in_both_directions_equal_pytorch(kind: str, engine: str) -> None:
    check(kind, engine, layers=2, bidirectional=True, start=True)


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_a_projected_lstm_equals_pytorch(engine: str) -> None:
    options = {"layers": 2, "bidirectional": True, "proj_size": 1}
    check("lstm", engine, start=True, **options)
    check("lstm", "reference", bias=False, lengths=[5, 2, 1, 4], **options)


def test_the_state_of_a_projected_lstm_has_two_sizes() -> None:
    layer = nn.LSTM(C, 4, proj_size=2, stateful=N, key=cr.random.key(0))
    assert (layer.hidden_size, layer.layers[0].state_sizes) == (4, (2, 4))
    assert [leaf.shape for leaf in layer.state_leaves().values()] == [(N, 1, 2), (N, 1, 4)]
    h, c = nn.LSTMCell(C, 4, proj_size=2)(np.ones((N, C)))
    assert (h.shape, c.shape) == ((N, 2), (N, 4))
    with pytest.raises(ShapeError, match=r"initial state should have shape \(4, 1, 2\) .*, not \(4, 1, 4\)"):
        layer(np.ones((N, T, C)), (np.ones((N, 1, 4)), np.ones((N, 1, 4))))
    with pytest.raises(ConfigError, match="proj_size of LSTM is 0 for none or less than hidden_size=4, not 4"):
        nn.LSTM(C, 4, proj_size=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"bias": False, "layers": 3}, {"bidirectional": True}], ids=str)
def test_settings_equal_pytorch(kind: str, options: dict[str, Any]) -> None:
    check(kind, "reference", **options)


def test_the_rectified_layer_equals_pytorch() -> None:
    check("rnn", "reference", nonlinearity="relu", layers=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_sequences_of_different_lengths_equal_packed_sequences(kind: str, engine: str) -> None:
    check(kind, engine, lengths=[3, 5, 1, 4], layers=2, bidirectional=True, start=True)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_a_mask(kind: str) -> None:
    model, _ = pair(kind, bidirectional=True)
    x = np.random.default_rng(3).normal(size=(N, T, C))
    lengths = np.array([5, 2, 0, 3])
    mask = np.arange(T) < lengths[:, None]
    for ours, theirs in zip(model(x, lengths=lengths), model(x, mask=mask.astype(np.float32)), strict=True):
        for one, other in zip(as_tuple(ours), as_tuple(theirs), strict=True):
            np.testing.assert_array_equal(one, other)
    output, state = model(x, lengths=lengths)
    assert not output[~mask].any()
    assert not as_tuple(state)[0][2].any(), "a sequence of length 0 keeps its initial state"
    # What stands in the padding is never read, not even a NaN.
    output_again, _ = model(np.where(mask[..., None], x, np.nan), lengths=lengths)
    np.testing.assert_array_equal(output, output_again)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_one_step_and_equals_pytorch(kind: str) -> None:
    theirs = {"rnn": torch.nn.RNNCell, "lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[kind](C, H).double()
    ours: Any = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](C, H)
    held = {name: leaf.detach().numpy().T for name, leaf in theirs.named_parameters()}
    cell = replace_leaves(ours.astype("float64"), held)
    x, state = np.random.default_rng(4).normal(size=(N, C)), None
    expected = None
    for _ in range(3):
        state, expected = cell(x, state), theirs(torch.tensor(x), expected)
    for one, other in zip(as_tuple(state), as_tuple(expected), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-10)
    assert as_tuple(cell(x[0]))[0].shape == (H,)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_call_returns_is_a_setting(kind: str) -> None:
    model, _ = pair(kind, layers=2, bidirectional=True)
    x = np.random.default_rng(5).normal(size=(N, T, C))
    output, state = model(x, lengths=np.array([5, 2, 1, 3]))
    h = as_tuple(state)[0]
    alone = model.replace(return_state=False)
    np.testing.assert_array_equal(alone(x, lengths=np.array([5, 2, 1, 3])), output)
    last = alone.replace(return_sequences=False)(x, lengths=np.array([5, 2, 1, 3]))
    np.testing.assert_array_equal(last, h[:, 2:].reshape(N, 2 * H))
    classifier = nn.Sequential(KINDS[kind][0](C, H, return_sequences=False, return_state=False), nn.Linear(H, 3))
    assert classifier(x.astype(np.float32)).shape == (N, 3)


def test_dropout_acts_between_layers_and_only_in_training() -> None:
    model = nn.GRU(C, 64, 2, dropout=0.5, key=cr.random.key(0))
    x = np.random.default_rng(6).normal(size=(1, T, C)).astype(np.float32)
    plain = model(x)[0]
    np.testing.assert_array_equal(plain, model.replace(dropout=nn.Dropout(0.0))(x, training=True)[0])
    cr.seed(0)
    dropped = model(x, training=True)[0]
    assert not np.allclose(plain, dropped)
    # The first layer never sees it: its last state is that without dropout.
    np.testing.assert_array_equal(model(x, training=True)[1][:, 0], model(x)[1][:, 0])
    # The mask is on what stands between the layers: alone in the top layer's input it gives the same.
    cr.seed(0)
    between = nn.Dropout(0.5)(model.replace(layers=model.layers[:1])(x)[0].transpose(1, 0, 2), training=True)
    top = model.replace(layers=model.layers[1:])
    np.testing.assert_allclose(dropped, top(between.transpose(1, 0, 2))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stateful_layer_is_truncated_backpropagation_through_time(kind: str) -> None:
    """Three batches in a row: PyTorch with the state detached between them."""
    model, theirs = pair(kind, layers=2, stateful=N)
    xs = np.random.default_rng(7).normal(size=(3, N, T, C))

    def loss(model: Any, x: Any) -> Any:
        return cr.square(model(x, training=True)[0]).sum()

    step = cr.compile(lambda model, x: cr.value_and_grad(loss, state=True)(model, x))
    state: Any = None
    for x in xs:
        theirs.zero_grad()
        out, state = theirs(torch.tensor(x), state)
        out.square().sum().backward()
        state = tuple(part.detach() for part in state) if kind == "lstm" else state.detach()
        (value, model), gradients = step(model, x)
        assert float(value) == pytest.approx(float(out.detach().square().sum()), rel=1e-10)
        found = gradients.named_parameters()["layers.0.weight_hh"]
        np.testing.assert_allclose(found, theirs.weight_hh_l0.grad.numpy().T, rtol=1e-9, atol=1e-12)
        assert not any(np.any(leaf) for leaf in gradients.state_leaves().values())
    for leaf, part in zip(model.state_leaves().values(), as_tuple(state), strict=True):
        np.testing.assert_allclose(leaf, part.transpose(0, 1).numpy(), rtol=1e-9)
    # Inference starts from zeros, or from what it is given; and so does training after a reset.
    np.testing.assert_allclose(model(xs[0])[0], theirs(torch.tensor(xs[0]))[0].detach().numpy(), rtol=1e-9)
    fresh = nn.reset_states(nn.Sequential(model))
    assert fresh.state_leaves()
    assert not any(np.any(leaf) for leaf in fresh.state_leaves().values())
    assert nn.reset_states(model).state_leaves().keys() == model.state_leaves().keys()


def test_a_stateful_layer_in_a_step_for_any_batch_size() -> None:
    model, _ = pair("lstm", stateful=N)

    def loss(model: Any, x: Any) -> Any:
        return cr.square(model(x, training=True)[0]).sum()

    def step(model: Any, x: Any) -> Any:
        return cr.value_and_grad(loss, state=True)(model, x)

    fixed, any_size = cr.compile(step), cr.compile(step, batch=("x",))
    one = other = model
    for x in np.random.default_rng(8).normal(size=(2, N, T, C)):
        (value, one), _ = fixed(one, x)
        (again, other), _ = any_size(other, x)
        assert float(value) == pytest.approx(float(again), rel=1e-12)
    for path, leaf in one.state_leaves().items():
        np.testing.assert_allclose(leaf, other.state_leaves()[path], rtol=1e-12)


def test_more_sequences_than_a_layer_carries_states_for_are_not_run_in_silence() -> None:
    model, _ = pair("gru", stateful=N)
    step = cr.compile(lambda m, x: cr.value_and_grad(loss_of, state=True)(m, x)[0], batch=("x",))
    x = np.random.default_rng(8).normal(size=(N + 2, T, C))
    for size in (N, 1):
        value, after = step(model, x[:size])
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in after.state_leaves().values())
    assert np.isnan(step(model, x)[0])


def loss_of(model: Any, x: Any) -> Any:
    return cr.square(model(x, training=True)[0]).sum()


def test_truncation_within_a_call_equals_detaching_the_state() -> None:
    model, theirs = pair("gru", truncate=2)
    x = np.random.default_rng(9).normal(size=(N, T, C))
    state, rows = None, []
    for start in range(0, T, 2):
        out, state = theirs(torch.tensor(x[:, start : start + 2]), state)
        state = state.detach()
        rows.append(out)
    torch.cat(rows, 1).square().sum().backward()
    gradients = cr.grad(lambda m: cr.square(m(x)[0]).sum())(model)
    np.testing.assert_allclose(gradients.layers[0].weight_hh, theirs.weight_hh_l0.grad.numpy().T, rtol=1e-9)


def count(graph: cr.Graph) -> int:
    return sum(1 + sum(count(body) for _, body in node.subgraphs()) for node in graph.nodes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_sequence_makes_no_larger_program_and_memory_grows_with_its_length(kind: str) -> None:
    model, _ = pair(kind)
    step = cr.compile(lambda model, x: cr.value_and_grad(lambda m: cr.square(m(x)[0]).sum())(model), engine="cpu")
    sizes = {}
    for steps in (64, 128, 256):
        step(model, np.ones((N, steps, C)))
        program: Any = step._last.program
        sizes[steps] = (count(step.graph), len(program.c_source), sum(program.working_bytes(1)))
    nodes, texts, arenas = zip(*sizes.values(), strict=True)
    assert len(set(nodes)) == 1
    # The loops are the same to the letter; the products of all steps at once choose their tiles by size.
    assert max(texts) - min(texts) < 0.1 * min(texts)
    assert arenas[2] - arenas[1] <= 2 * (arenas[1] - arenas[0]) + 4096


def test_second_derivatives_through_a_layer() -> None:
    model, theirs = pair("lstm")
    x = np.random.default_rng(10).normal(size=(N, T, C))
    leaf = torch.tensor(x, requires_grad=True)
    (first,) = torch.autograd.grad(theirs(leaf)[0].square().sum(), leaf, create_graph=True)
    first.square().sum().backward()

    def penalty(model: Any, x: Any) -> Any:
        return cr.square(cr.grad(lambda x: cr.square(model(x)[0]).sum())(x)).sum()

    found = cr.grad(penalty)(model, x)
    for path, their in paths(1, False, True).items():
        expected = getattr(theirs, their).grad.numpy().T
        np.testing.assert_allclose(found.named_parameters()[path], expected, rtol=1e-8, atol=1e-11, err_msg=path)


def test_initial_weights() -> None:
    layer = nn.LSTM(5, 8, 2, bidirectional=True, key=cr.random.key(3))
    again = nn.LSTM(5, 8, 2, bidirectional=True, key=cr.random.key(3))
    for path, leaf in layer.named_parameters().items():
        np.testing.assert_array_equal(leaf, again.named_parameters()[path])
    cell = layer.layers[1]
    assert (cell.input_size, cell.hidden_size, layer.input_size) == (16, 8, 5)
    for gate in range(4):
        square = cell.weight_hh[:, 8 * gate : 8 * gate + 8]
        np.testing.assert_allclose(square.T @ square, np.eye(8), atol=1e-5)
    assert np.abs(cell.weight_ih).max() <= np.sqrt(6 / (16 + 8)) + 1e-6
    np.testing.assert_array_equal(cell.bias_ih, np.repeat([0, 1, 0, 0], 8))


def test_bad_input_is_refused_in_one_sentence() -> None:
    layer = nn.LSTM(C, H)
    x = np.zeros((N, T, C), np.float32)
    with pytest.raises(ShapeError, match=r"shape \(N, T, C\), not \(5, 3\)"):
        layer(x[0])
    with pytest.raises(
        ShapeError, match=rf"last axis of the input should have size 3, but the input has shape \({N}, {T}, 2\)"
    ):
        layer(x[..., :2])
    with pytest.raises(ShapeError, match=r"initial state should have shape \(4, 1, 2\).*not \(1, 4, 2\)"):
        layer(x, (np.zeros((1, N, H)), np.zeros((1, N, H))))
    with pytest.raises(ConfigError, match="lengths or a mask, not both"):
        layer(x, lengths=np.ones(N, int), mask=np.ones((N, T)))
    with pytest.raises(ShapeError, match=r"lengths should have shape \(4,\)"):
        layer(x, lengths=np.ones((N, 1), int))
    with pytest.raises(DTypeError, match="lengths are integers"):
        layer(x, lengths=np.ones(N))
    with pytest.raises(ShapeError, match=r"mask should have shape \(4, 5\)"):
        layer(x, mask=np.ones((T, N)))
    with pytest.raises(ShapeError, match="stateful=2 takes batches of 2 sequences, not 4"):
        nn.GRU(C, H, stateful=2)(x, training=True)
    with pytest.raises(ShapeError, match=r"the state of a step .* has shape \(4, 2\), not \(2, 4\)"):
        nn.GRUCell(C, H)(x[:, 0], np.zeros((H, N)))
    with pytest.raises(ConfigError, match="LSTM needs hidden_size to be an integer of at least 1, not 0"):
        nn.LSTM(C, 0)
    with pytest.raises(ConfigError, match="nonlinearity of RNN is 'tanh' or 'relu', not 'sigmoid'"):
        nn.RNN(C, H, nonlinearity="sigmoid")  # type: ignore[arg-type]


@pytest.mark.parametrize(("lengths", "message"), [([6, 1], "row 0 holds 6"), ([1, -1], "row 1 holds -1")])
@pytest.mark.parametrize("make", [lambda: nn.GRU(3, 4), lambda: nn.MultiheadAttention(3, 1)])
def test_lengths_that_no_sequence_has_are_refused(make: Any, lengths: list[int], message: str) -> None:
    with pytest.raises(DataError, match=f"lengths of sequences of 5 positions are 0 to 5, but {message}"):
        make()(np.zeros((2, 5, 3), np.float32), lengths=np.array(lengths))
