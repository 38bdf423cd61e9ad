"""A tour of Chainrule, from a scalar product to a trained network. Run it: python docs/tour.py

Every section prints what it computes. Nothing here is more than a few lines; that is the point.
"""

import numpy as np

import chainrule as cr
from chainrule import nn, optim


def section(title: str) -> None:
    print(f"\n{'-' * 100}\n{title}\n{'-' * 100}")


section("1. An expression is a graph")
# Outside of tracing, operations are NumPy: arrays in, arrays out, computed at once. Traced, the same function is recorded
# on symbolic arrays that have a type and no numbers, and becomes a graph of a few dozen primitives.


def activity(w, x):
    return cr.tanh((w * x).sum())


w, x = np.array([0.5, -1.0, 2.0]), np.array([1.0, 2.0, 0.25])
print(f"eagerly: {activity(w, x):.9g}")
print(cr.print_graph(cr.trace(activity, w, x)))

section("2. Backpropagation writes another graph")
# It walks the nodes backwards and applies one rule per primitive. The rules are written in the same primitives, so the
# result is an ordinary graph: printed, compiled, or differentiated again.

learn = cr.compile(cr.value_and_grad(activity))
value, gradient = learn(w, x)
print("value:", value, " gradient by w:", gradient)
print("by hand, (1 - tanh²) x:", (1 - value**2) * x)
print(cr.print_graph(learn.backward_graph))

section("3. Check any gradient")
# Against central differences in float64, or a derivation of your own against backpropagation.

print(cr.check_gradients(activity, w, x))
print("a correct derivation:", cr.compare(lambda w, x: (1 - np.tanh(w @ x) ** 2) * x, activity, w, x))
print("a common mistake:    ", cr.compare(lambda w, x: np.tanh(w @ x) * x, activity, w, x))
print("the gradient of the gradient's length:", cr.check_gradients(lambda w: (cr.grad(activity)(w, x) ** 2).sum(), w))

section("4. One hidden unit, number by number")
# The same numbers as in `chainrule step examples/worked_1.toml`, which prints every product of the chain rule.


def half_squared_error(weights, x, y):
    h = cr.ops.sigmoid(weights["w1"] * x)
    output = cr.ops.sigmoid(weights["w2"] * h)
    return 0.5 * (y - output) ** 2


weights = {"w1": np.array(0.4), "w2": np.array(0.6)}
loss, gradients = cr.value_and_grad(half_squared_error)(weights, np.array(0.5), np.array(1.0))
print(f"L = {loss:.9g}   ∂L/∂w1 = {gradients['w1']:.9g}   ∂L/∂w2 = {gradients['w2']:.9g}")

section("5. XOR: the whole training step is one program")
# Forward pass, loss, backpropagation and update are traced together. Donated weights may be overwritten in place, and the
# batch size stays a symbol B: the program that saw four examples takes one, or a thousand.

inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
targets = np.array([[0], [1], [1], [0]], np.float64)


def network(p, x):
    return cr.ops.sigmoid(cr.tanh(x @ p["w"] + p["b"]) @ p["v"] + p["c"])


def squared_error(p, x, y):
    return ((y - network(p, x)) ** 2).mean()


def sgd_step(p, x, y):
    loss, gradients = cr.value_and_grad(squared_error)(p, x, y)
    return loss, {name: p[name] - 2.0 * gradients[name] for name in p}


rng = np.random.default_rng(0)
p = {"w": rng.normal(size=(2, 2)), "b": np.zeros(2), "v": rng.normal(size=(2, 1)), "c": np.zeros(1)}
step = cr.compile(sgd_step, donate=("p",), batch=("x", "y"))
for number in range(3001):
    loss, p = step(p, inputs, targets)
    if number % 1000 == 0:
        print(f"step {number:4d}   loss {float(loss):.6f}")
print("outputs:", network(p, inputs).ravel().round(3))
print(f"the step is one graph of {len(step.graph.nodes)} nodes;", "its input x is", step.graph.inputs[-2].type)

section("6. Another rule set: feedback alignment")
# Rules are a value. Here the error reaches the hidden layer through fixed random weights instead of the transposed ones,
# for the layers whose path matches. The output layer's own gradient is the same; the hidden layer's is not.

cr.seed(3)
model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
x32, y32 = inputs.astype(np.float32), targets.astype(np.float32)
aligned = cr.feedback_alignment("layers.2")


def loss_of(model, x, y):
    return nn.losses.binary_cross_entropy(model(x), y)


_, exact = cr.value_and_grad(loss_of)(model, x32, y32)
_, other = cr.value_and_grad(loss_of, rules=aligned)(model, x32, y32)
for (path, one), two in zip(exact.named_parameters().items(), other.named_parameters().values()):
    print(f"{path:16s} largest difference of the gradients {np.abs(one - two).max():.3f}")
trainer = cr.Trainer(model, loss=nn.losses.binary_cross_entropy, optimizer=optim.Adam(0.02), rules=aligned)
history = trainer.fit((x32, y32), epochs=300, batch_size="full")
print(f"and yet it learns: loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")

section("7. A loop: backpropagation through time")
# scan records the body once, whatever the length; its gradient is a scan in the opposite direction.


def recurrent(w, xs, truncate=None):
    def body(state, x):
        state = cr.tanh(state @ w + x)
        return state, state

    _, states = cr.scan(body, np.zeros(3), xs, truncate=truncate)
    return (states[-1] ** 2).sum()


w, xs = rng.normal(size=(3, 3)), rng.normal(size=(20, 3))
print("through 20 steps:", cr.check_gradients(recurrent, w, xs))
full = cr.grad(recurrent)(w, xs)
cut = cr.grad(lambda w, xs: recurrent(w, xs, truncate=5))(w, xs)
print("truncated after 5 steps, the gradient differs by", np.abs(full - cut).max().round(6))
primitives = [node.primitive.name for node in cr.trace(cr.grad(recurrent), w, xs).nodes]
print("the graph of the gradient has", primitives.count("scan"), "scans, whatever the length")

section("8. A fixed point: a network of infinite depth")
# z = tanh(W z + x), solved by iteration. Its gradient solves one linear fixed point at the solution and needs nothing of
# the way there: implicit differentiation, known as recurrent backpropagation.


def equilibrium(w, x):
    z, _ = cr.fixed_point(lambda z: cr.tanh(0.3 * (z @ w) + x), np.zeros(3), tolerance=1e-13)
    return (z**2).sum()


def unrolled(w, x):
    z = np.zeros(3)
    for _ in range(200):
        z = cr.tanh(0.3 * (z @ w) + x)
    return (z**2).sum()


print(cr.check_gradients(equilibrium, w, xs[0]))
difference = np.abs(cr.grad(equilibrium)(w, xs[0]) - cr.grad(unrolled)(w, xs[0])).max()
print(f"the gradient through 200 unrolled steps differs by {difference:.1e}")

section("9. Layers, an optimiser and a Trainer")
# Two spirals, one in the other. A Module is an immutable tree of arrays; everything above applies to it.

turn = np.sqrt(rng.uniform(size=600)) * 3 * np.pi
arm = rng.integers(0, 2, 600)
points = (turn[:, None] * np.stack([np.cos(turn + np.pi * arm), np.sin(turn + np.pi * arm)], 1)) / 5
points = (points + rng.normal(scale=0.05, size=points.shape)).astype(np.float32)

cr.seed(0)
model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
print(model.summary((2,)))
trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.Adam(0.01), seed=0)
history = trainer.fit((points[:500], arm[:500]), epochs=150, batch_size=50)
right = (trainer.predict(points[500:]).argmax(1) == arm[500:]).mean()
print(f"loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}; right on {right:.0%} of 100 points it has not seen")
