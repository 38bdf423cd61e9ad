"""TensorFlow: the whole step as a ``tf.function``, compiled by XLA or not, with TensorFlow's own kernels for the updates.

Where ours runs an epoch in one call, the loop over its batches is inside the function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from bench.peers.tensorflow_networks import (
    NETWORKS,
    UNDER_XLA,
    convolution,
    discriminator,
    generator,
    margins,
    running_statistics,
)
from bench.steps import Contestant, OneProduct, PerCall, WholeEpoch
from bench.workloads import ADAM_EPSILON, Product, Workload


def build(workload: Workload | Product, form: str) -> Contestant:
    xla = form == "xla"
    if isinstance(workload, Product):
        return _product(workload, xla)
    initial = workload.initial()
    p = {name: tf.Variable(weight) for name, weight in initial.items()}
    state = running_statistics(initial)
    networks = UNDER_XLA if xla else NETWORKS
    if workload.loss == "adversarial":
        update = _adversarial(workload, p, state)
    else:
        update = _update(workload, p, networks[workload.network], state)
    x, y = workload.data()
    return _whole_epoch(workload, update, x, y, xla) if workload.epoch else _per_call(workload, update, x, y, xla)


def _per_call(workload: Workload, update: Any, x: Any, y: Any, xla: bool) -> Contestant:
    compiled = tf.function(update, jit_compile=xla)
    cuts = range(workload.batch, len(x), workload.batch)
    batches = [(tf.constant(a), tf.constant(b)) for a, b in zip(np.split(x, cuts), np.split(y, cuts))]
    return PerCall(workload, lambda number: float(compiled(*batches[number])))


def _whole_epoch(workload: Workload, update: Any, x: Any, y: Any, xla: bool) -> Contestant:
    xs, ys = (tf.constant(a.reshape(workload.batches, workload.batch, *a.shape[1:])) for a in (x, y))

    @tf.function(jit_compile=xla)
    def loop(xs: Any, ys: Any) -> Any:
        losses = tf.TensorArray(tf.float32, workload.batches, element_shape=())

        def body(number: Any, losses: Any) -> Any:
            return number + 1, losses.write(number, update(xs[number], ys[number]))

        count = tf.constant(workload.batches)
        _, losses = tf.while_loop(
            lambda number, _: number < count,
            body,
            (tf.constant(0), losses),
            maximum_iterations=workload.batches,
            parallel_iterations=1,
        )
        return losses.stack()

    return WholeEpoch(workload, lambda: loop(xs, ys).numpy())


# --- steps ------------------------------------------------------------------------------------------------------------


def _update(workload: Workload, p: Any, forward: Any, state: Any) -> Any:
    apply = _optimizer(workload, p)

    def update(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = forward(p, state, x)
            if workload.loss == "squared_error":
                loss = tf.reduce_mean((outputs - y) ** 2)
            else:
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs))
        apply(dict(zip(p, tape.gradient(loss, list(p.values())))))
        return loss

    return update


def _adversarial(workload: Workload, p: Any, state: Any) -> Any:
    """One update of the discriminator, then one of the generator against the new discriminator; the sum of their losses."""
    makers, judges = ({name: v for name, v in p.items() if name.startswith(letter)} for letter in "gd")
    apply_to_makers, apply_to_judges = _optimizer(workload, makers), _optimizer(workload, judges)

    def towards(images: Any, goal: float) -> Any:
        logits = discriminator(p, state, images)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), goal), logits))

    def update(z: Any, real: Any) -> Any:
        with tf.GradientTape() as making:
            made = generator(p, state, z)
        with tf.GradientTape() as judging:
            judged = towards(real, 1.0) + towards(tf.stop_gradient(made), 0.0)
        apply_to_judges(dict(zip(judges, judging.gradient(judged, list(judges.values())))))
        with tf.GradientTape() as deceiving:
            deceiving.watch(made)
            deceived = towards(made, 1.0)
        slope = deceiving.gradient(deceived, made)
        apply_to_makers(dict(zip(makers, making.gradient(made, list(makers.values()), slope))))
        return judged + deceived

    return update


def _optimizer(workload: Workload, p: Any) -> Any:
    """Applies gradients by name, with the kernels that Keras's optimisers were made for."""
    if workload.optimizer == "sgd":

        def descend(slopes: Any) -> None:
            for name, slope in slopes.items():
                tf.raw_ops.ResourceApplyGradientDescent(var=p[name].handle, alpha=workload.rate, delta=slope)

        return descend
    b1, b2 = workload.betas
    first, second = ({name: tf.Variable(tf.zeros_like(v)) for name, v in p.items()} for _ in range(2))
    powers = tf.Variable(b1), tf.Variable(b2)

    def adam(slopes: Any) -> None:
        one, two = powers[0].read_value(), powers[1].read_value()
        # The kernel's epsilon is that of the paper's second form, beside the uncorrected root.
        epsilon = ADAM_EPSILON * tf.sqrt(1 - two)
        for name, slope in slopes.items():
            tf.raw_ops.ResourceApplyAdam(
                var=p[name].handle,
                m=first[name].handle,
                v=second[name].handle,
                beta1_power=one,
                beta2_power=two,
                lr=workload.rate,
                beta1=b1,
                beta2=b2,
                epsilon=epsilon,
                grad=tf.convert_to_tensor(slope),
            )
        powers[0].assign(one * b1)
        powers[1].assign(two * b2)

    return adam


# --- single products --------------------------------------------------------------------------------------------------


def _product(product: Product, xla: bool) -> Contestant:
    function = tf.function(_role(product), jit_compile=xla)
    left, right = map(tf.constant, product.operands())
    # The result is there when the call returns: the CPU device computes synchronously.
    return OneProduct(product, lambda: function(left, right), np.asarray)


def _role(product: Product) -> Any:
    if len(product.weight) == 2:
        return {
            "forward": tf.matmul,
            "input-gradient": lambda g, w: tf.matmul(g, w, transpose_b=True),
            "weight-gradient": lambda x, g: tf.matmul(x, g, transpose_a=True),
        }[product.role]
    stride, padding = product.stride, margins(product.stride, 1)
    how = {"strides": [1, stride, stride, 1], "padding": "EXPLICIT" if isinstance(padding, list) else padding}
    if isinstance(padding, list):
        how["explicit_paddings"] = [number for pair in padding for number in pair]
    return {
        "forward": lambda x, w: convolution(x, w, stride),
        "input-gradient": lambda g, w: tf.raw_ops.Conv2DBackpropInput(
            input_sizes=product.input, filter=w, out_backprop=g, **how
        ),
        "weight-gradient": lambda x, g: tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=product.weight, out_backprop=g, **how
        ),
    }[product.role]
