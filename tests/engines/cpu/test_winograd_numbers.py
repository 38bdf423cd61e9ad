"""What Winograd's algorithms do to digits, to the largest numbers and to what is not finite; two blocks of networks beside PyTorch."""

import numpy as np
import pytest
from tests.engines.cpu.test_fuzz import quick
from tests.engines.cpu.test_winograd import all_three, operands, steps

import chainrule as cr
from chainrule import ops
from chainrule.engines.cpu import winograd
from chainrule.engines.cpu.engine import CpuEngine
from chainrule.engines.reference import ENGINE as REFERENCE
from chainrule.passes import optimise
from chainrule.transforms import trace

torch = pytest.importorskip("torch")

FINITE, PLUS, MINUS, NAN = range(4)
SETTINGS = [((3, 3), (1, 1)), ((3, 3), (1, 0)), ((2, 2), (1, 1)), ((4, 4), (2, 1)), ((3, 3), (2, 1)), ((5, 5), (2, 2))]
# The last two are finite, but not all differences and sums of them.
SPECIAL = [np.inf, -np.inf, np.nan, 3e38, -3e38]


def kinds(x):
    return np.select([np.isnan(x), x == np.inf, x == -np.inf], [NAN, PLUS, MINUS], FINITE)


def compiled(function, *arrays):
    graph = optimise(trace(function, *arrays, batch=("x", "g")))
    return CpuEngine(quick()).load(graph)


def spoilt(array, value, number):
    rng = np.random.default_rng(number)
    array = array.copy()
    array.ravel()[rng.choice(array.size, 1 + array.size // 500, replace=False)] = value
    return array


def summed_directly(x, w, g, stride, before):
    """The result and the gradient of the image, term by term."""
    height, width = x.shape[1:3]
    y, dx = np.zeros(g.shape), np.zeros(x.shape)
    with np.errstate(all="ignore"):
        for k in range(w.shape[0]):
            for m in range(w.shape[1]):
                rows = [(o, stride * o + k - before) for o in range(g.shape[1])]
                columns = [(o, stride * o + m - before) for o in range(g.shape[2])]
                for o, p in rows:
                    for r, q in columns:
                        if 0 <= p < height and 0 <= q < width:
                            y[:, o, r] += (x[:, p, q, :, None].astype(float) * w[k, m]).sum(1)
                            dx[:, p, q] += (g[:, o, r, None, :].astype(float) * w[k, m]).sum(2)
        return y.astype(np.float32), dx.astype(np.float32)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    ("size", "kernel", "setting"), [*(((12, 11), *one) for one in SETTINGS), ((8, 9), (5, 5), (2, 1))]
)
def test_what_is_not_finite_is_computed_from_the_definition(size, kernel, setting, number):
    """Operands are 1/2 to 1, so that nothing of 3e38 cancels. Where weights are spoilt, borders of zeros may give NaN.

    In the last setting positions are fewer than taps, along one axis; an input gradient is solved for them nevertheless.
    """
    given = [np.abs(x) % 0.5 + 0.5 for x in operands(size, kernel, 16, 16, *setting, batch=3)]
    program = compiled(all_three(*setting), *given)
    assert steps(program.c_source)[0] >= 1
    for value in SPECIAL:
        arrays = [spoilt(x, value, number) if k == number else x for k, x in enumerate(given)]
        with np.errstate(all="ignore"):
            y, dx, _ = program(arrays)
        expected = summed_directly(*arrays, *setting)
        for result, right in zip((y, dx), expected, strict=True):
            wanted, seen = kinds(right), kinds(result)
            zeros = number == 1 and not np.isfinite(value)
            assert ((seen == wanted) | (zeros & (seen == NAN))).all()
            finite = (wanted == FINITE) & (seen == FINITE)
            # Sums of taps keep the digits of the largest weight, also for results at borders that do not read it.
            lost = 1e-6 * value if number == 1 and np.isfinite(value) else 0.0
            np.testing.assert_allclose(result[finite], right[finite], rtol=1e-5, atol=abs(lost))


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(("kernel", "setting"), SETTINGS)
def test_gradients_of_weights_keep_it_among_the_taps_of_their_channels(kernel, setting, number):
    given = operands((12, 11), kernel, 16, 32, *setting, batch=9)
    function = all_three(*setting)
    program, reference = compiled(function, *given), REFERENCE.load(optimise(trace(function, *given, batch=("x", "g"))))
    usual = program(given)[2].copy()
    for value in SPECIAL:
        arrays = [spoilt(x, value, number) if k == number else x for k, x in enumerate(given)]
        with np.errstate(all="ignore"):
            found, expected = program(arrays)[2], reference(arrays)[2]
        touched = (np.abs(arrays[number]) > 1e30) | np.isnan(arrays[number])
        channels = touched.any((0, 1, 2))
        others = found[:, :, ~channels] if number == 0 else found[..., ~channels]
        assert others.tobytes() == (usual[:, :, ~channels] if number == 0 else usual[..., ~channels]).tobytes()
        if not np.isfinite(value):
            assert not np.isfinite(found[~np.isfinite(expected)]).any()


@pytest.mark.parametrize(
    ("kernel", "setting"), [((3, 3), (1, 1)), ((4, 4), (2, 1)), ((3, 3), (2, 1)), ((5, 5), (2, 2))]
)
@pytest.mark.parametrize("channels", [16, 64])
def test_digits_of_float32(kernel, setting, channels, monkeypatch):
    """Normal data: the error, as a root of a mean square, beside that of direct sums by the same engine and by NumPy."""
    given = operands((16, 14), kernel, channels, channels, *setting, batch=8)
    function = all_three(*setting)
    graph = optimise(trace(function, *given, batch=("x", "g")))
    found = CpuEngine(quick()).load(graph)(given)
    wide = [x.astype(np.float64) for x in given]
    exact = REFERENCE.load(optimise(trace(function, *wide, batch=("x", "g"))))(wide)
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 1000)
    direct = CpuEngine(quick()).load(optimise(trace(lambda x, w, g: function(x, w, g), *given, batch=("x", "g"))))
    assert steps(direct.c_source) == (0, 0)
    for results in zip(found, direct(given), REFERENCE.load(graph)(given), exact, strict=True):
        *others, right = (x.astype(np.float64) for x in results)
        error, first, second = (float(np.sqrt(np.square(x - right).mean())) for x in others)
        assert error < 3.5 * min(first, second)
        assert error < 1e-6 * float(np.sqrt(np.square(right).mean()))


def torch_image(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).requires_grad_()


def torch_weight(w):
    return torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1))).requires_grad_()


def from_image(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def from_weight(w):
    return w.detach().numpy().transpose(2, 3, 1, 0)


def residual(x, u, v):
    y = ops.convolution(x, u, padding=1)
    mean = y.mean((0, 1, 2))
    y = (y - mean) / ops.sqrt(ops.square(y - mean).mean((0, 1, 2)) + 1e-5)
    return ops.square(ops.relu(ops.convolution(ops.relu(y), v, padding=1) + x)).sum()


def torch_residual(x, u, v):
    f = torch.nn.functional
    y = f.relu(f.batch_norm(f.conv2d(x, u, padding=1), None, None, training=True))
    return f.relu(f.conv2d(y, v, padding=1) + x).square().sum()


def adversarial(x, u, v):
    """Down and up again, with strides: a step of a discriminator and one of a generator."""
    y = ops.convolution(x, u, stride=2, padding=1)
    z = ops.transposed_convolution(ops.where(y > 0, y, 0.2 * y), v, stride=2, padding=1)
    return ops.square(ops.tanh(z)).sum()


def torch_adversarial(x, u, v):
    f = torch.nn.functional
    y = f.leaky_relu(f.conv2d(x, u, stride=2, padding=1), 0.2)
    # PyTorch's transposed weights have the input's channels first.
    return torch.tanh(f.conv_transpose2d(y, v.transpose(0, 1), stride=2, padding=1)).square().sum()


@pytest.mark.parametrize(
    ("block", "other", "kernel", "size"),
    [(residual, torch_residual, 3, (9, 8)), (adversarial, torch_adversarial, 4, (10, 12))],
)
def test_blocks_of_networks_beside_pytorch(block, other, kernel, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, *size, 16))
    u, v = (rng.normal(size=(kernel, kernel, 16, 16)) / 12 for _ in range(2))
    step = cr.compile(lambda x, u, v: cr.value_and_grad(block, (0, 1, 2))(x, u, v), engine="cpu", batch=("x",))
    loss, (dx, du, dv) = step(x, u, v)
    images, weights = torch_image(x), [torch_weight(w) for w in (u, v)]
    right = other(images, *weights)
    right.backward()
    results, gradients = steps(step.c_source)
    assert results >= 4
    assert gradients >= 1
    np.testing.assert_allclose(loss, right.item(), rtol=1e-10)
    expected = [from_image(images.grad), *(from_weight(w.grad) for w in weights)]
    for found, gradient in zip((dx, du, dv), expected, strict=True):
        np.testing.assert_allclose(found, gradient, rtol=0, atol=1e-10 * np.abs(gradient).max())
