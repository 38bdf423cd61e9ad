"""Learning rates that change during training: functions of the number of updates made so far.

A schedule is called with that count as a traced float64 scalar, 0 at the first update, and returns the learning rate. Any
function of one argument can be given where a schedule is expected; those made here can also be stored.
All counts are updates (batches), not epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule import ops
from chainrule.core.errors import ConfigError
from chainrule.optim.optimizer import JSON
from chainrule.optim.settings import count as whole
from chainrule.optim.settings import non_negative, positive
from chainrule.trace import as_array, operation


@dataclass(frozen=True, eq=False, slots=True)
class Schedule:
    """``schedule(count)`` is the learning rate of the update after ``count`` updates."""

    rate: Callable[[Any], Any]
    describe: Mapping[str, JSON]

    def __call__(self, count: Any) -> Any:
        return operation(self._rate)(count)

    def _rate(self, count: Any) -> Any:
        return as_array(self.rate(as_array(count, "float64")), "float64")


LearningRate = float | Callable[[Any], Any]


def as_schedule(owner: str, rate: LearningRate) -> Schedule:
    """A number becomes a constant schedule, a function a schedule that cannot be stored.

    Raises :class:`ConfigError` for a negative number and for what is neither.
    """
    if isinstance(rate, Schedule):
        return rate
    if callable(rate):
        return Schedule(rate, {"kind": "function", "name": getattr(rate, "__qualname__", repr(rate))})
    return _constant(non_negative(owner, "the learning rate", rate))


def _constant(rate: float) -> Schedule:
    return Schedule(lambda count: rate, {"kind": "constant", "lr": rate})


def describe_rate(schedule: Schedule) -> JSON:
    """A constant as its number, anything else as what it says of itself."""
    return schedule.describe["lr"] if schedule.describe["kind"] == "constant" else schedule.describe


def constant(lr: float) -> Schedule:
    """Always ``lr``."""
    return _constant(non_negative("constant", "lr", lr))


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine wave from ``lr`` down to ``final`` in ``steps`` updates, ``final`` from then on.

    ``final + (lr - final)·½(1 + cos(π·min(count, steps)/steps))`` (Loshchilov and Hutter 2017, without restarts).
    """
    start, end = non_negative("cosine", "lr", lr), non_negative("cosine", "final", final)
    length = whole("cosine", "steps", steps)

    def rate(count: Any) -> Any:
        done = ops.minimum(count, float(length)) / float(length)
        return end + (start - end) * 0.5 * (1.0 + ops.cos(math.pi * done))

    return Schedule(rate, {"kind": "cosine", "lr": start, "steps": length, "final": end})


def step(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """``lr·factor^⌊count/every⌋``: multiplied by ``factor`` after every so many updates."""
    start, ratio = non_negative("step", "lr", lr), positive("step", "factor", factor)
    length = whole("step", "every", every)

    def rate(count: Any) -> Any:
        return start * ratio ** ops.floor(count / float(length))

    return Schedule(rate, {"kind": "step", "lr": start, "every": length, "factor": ratio})


def exponential(lr: float, factor: float) -> Schedule:
    """``lr·factor^count``: multiplied by ``factor`` after every update."""
    start, ratio = non_negative("exponential", "lr", lr), positive("exponential", "factor", factor)
    return Schedule(lambda count: start * ratio**count, {"kind": "exponential", "lr": start, "factor": ratio})


def multi_step(lr: float, milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """``lr``, multiplied by ``factor`` after each of so many updates: ``multi_step(0.1, [30_000, 60_000])``."""
    start, ratio = non_negative("multi_step", "lr", lr), positive("multi_step", "factor", factor)
    counts = _increasing("multi_step", milestones)

    def rate(count: Any) -> Any:
        return start * ratio ** sum((ops.where(count >= float(at), 1.0, 0.0) for at in counts), start=0.0 * count)

    return Schedule(rate, {"kind": "multi_step", "lr": start, "milestones": counts, "factor": ratio})


def linear(lr: float, steps: int, start_factor: float = 1 / 3, final_factor: float = 1.0) -> Schedule:
    """A straight line from ``lr·start_factor`` to ``lr·final_factor`` in ``steps`` updates, and its end from then on."""
    top, length = non_negative("linear", "lr", lr), whole("linear", "steps", steps)
    first = non_negative("linear", "start_factor", start_factor)
    last = non_negative("linear", "final_factor", final_factor)

    def rate(count: Any) -> Any:
        return top * (first + (last - first) * (ops.minimum(count, float(length)) / float(length)))

    described: dict[str, JSON] = {"lr": top, "steps": length, "start_factor": first, "final_factor": last}
    return Schedule(rate, {"kind": "linear", **described})


def polynomial(lr: float, steps: int, power: float = 1.0) -> Schedule:
    """``lr·(1 - min(count, steps)/steps)^power``: down to 0 in ``steps`` updates, in a straight line for the power 1."""
    start, length = non_negative("polynomial", "lr", lr), whole("polynomial", "steps", steps)
    exponent = positive("polynomial", "power", power)

    def rate(count: Any) -> Any:
        return start * (1.0 - ops.minimum(count, float(length)) / float(length)) ** exponent

    return Schedule(rate, {"kind": "polynomial", "lr": start, "steps": length, "power": exponent})


def cyclic(
    low: float, high: float, rise: int, fall: int | None = None, shrink: float = 1.0, fade: float = 1.0
) -> Schedule:
    """From ``low`` to ``high`` in ``rise`` updates, back in ``fall`` (as many by default), again and again (Smith 2017).

    Each cycle rises ``shrink`` times as far as the one before: 1 is PyTorch's mode "triangular", 0.5 its "triangular2". After
    ``count`` updates the rate is ``fade^count`` times as far above ``low`` as it would be: "exp_range" with its gamma.
    """
    bottom, top = non_negative("cyclic", "low", low), non_negative("cyclic", "high", high)
    up = whole("cyclic", "rise", rise)
    down = up if fall is None else whole("cyclic", "fall", fall)
    ratio, fading = positive("cyclic", "shrink", shrink), positive("cyclic", "fade", fade)
    if top < bottom:
        raise ConfigError(f"cyclic rises from low to high, but {low!r} is above {high!r}")

    def rate(count: Any) -> Any:
        cycle = ops.floor(count / float(up + down))
        place = count - cycle * float(up + down)
        share = ops.where(place <= float(up), place / float(up), (float(up + down) - place) / float(down))
        return bottom + (top - bottom) * share * ratio**cycle * fading**count

    described: dict[str, JSON] = {"low": bottom, "high": top, "rise": up, "fall": down, "shrink": ratio, "fade": fading}
    return Schedule(rate, {"kind": "cyclic", **described})


def sequence(schedules: Sequence[LearningRate], milestones: Sequence[int]) -> Schedule:
    """One schedule after another, each from its own beginning: the second from update ``milestones[0]`` on, and so on.

    Raises :class:`ConfigError` unless there is one milestone fewer than schedules, in increasing order.
    """
    parts = [as_schedule("sequence", part) for part in schedules]
    counts = _increasing("sequence", milestones)
    if len(counts) != len(parts) - 1:
        raise ConfigError(
            f"sequence needs {len(parts) - 1} milestones between {len(parts)} schedules, not {len(counts)}"
        )

    def rate(count: Any) -> Any:
        found = parts[0](count)
        for at, part in zip(counts, parts[1:], strict=True):
            found = ops.where(count >= float(at), part(ops.maximum(count - float(at), 0.0)), found)
        return found

    described: dict[str, JSON] = {"schedules": [describe_rate(part) for part in parts], "milestones": counts}
    return Schedule(rate, {"kind": "sequence", **described})


def _increasing(owner: str, milestones: Sequence[int]) -> list[int]:
    counts = [whole(owner, "milestones", at) for at in milestones]
    if counts != sorted(set(counts)):
        raise ConfigError(f"the milestones of {owner} are numbers of updates in increasing order, not {counts}")
    return counts


def warmup(steps: int, after: LearningRate) -> Schedule:
    """Rises in equal parts during the first ``steps`` updates, then follows ``after`` from its own beginning.

    ``after(0)·(count + 1)/steps`` while ``count < steps``, then ``after(count - steps)``: no update is lost at a rate of 0,
    and the last of the rise runs at the full rate.
    """
    length = whole("warmup", "steps", steps)
    following = as_schedule("warmup", after)

    def rate(count: Any) -> Any:
        # While it rises the count of what follows stands at 0, so that it is computed only once.
        full = following(ops.maximum(count - float(length), 0.0))
        return full * ops.minimum((count + 1.0) / float(length), 1.0)

    return Schedule(rate, {"kind": "warmup", "steps": length, "after": describe_rate(following)})


def cosine_restarts(lr: float, steps: int, growth: int = 1, final: float = 0.0) -> Schedule:
    """Half a cosine wave from ``lr`` down to ``final``, again and again (Loshchilov and Hutter 2017).

    The first wave takes ``steps`` updates, each of the others ``growth`` times as many as the one before.
    """
    start, end = non_negative("cosine_restarts", "lr", lr), non_negative("cosine_restarts", "final", final)
    length, times = whole("cosine_restarts", "steps", steps), whole("cosine_restarts", "growth", growth)

    def rate(count: Any) -> Any:
        if times == 1:
            wave = float(length)
            begin = ops.floor(count / wave) * wave
        else:
            # Half an update more keeps the logarithm away from whole numbers, where rounding would choose the wave.
            number = ops.floor(ops.log((count + 0.5) * ((times - 1) / length) + 1.0) / math.log(times))
            wave = float(length) * float(times) ** number
            begin = (wave - float(length)) / float(times - 1)
        return end + (start - end) * 0.5 * (1.0 + ops.cos(math.pi * ((count - begin) / wave)))

    described: dict[str, JSON] = {"lr": start, "steps": length, "growth": times, "final": end}
    return Schedule(rate, {"kind": "cosine_restarts", **described})


def one_cycle(
    lr: float,
    steps: int,
    rise: float = 0.3,
    start_factor: float = 25.0,
    final_factor: float = 1e4,
    straight: bool = False,
    three_phases: bool = False,
) -> Schedule:
    """From ``lr/start_factor`` up to ``lr`` and down to ``lr/(start_factor·final_factor)``, by half cosine waves.

    The rise takes the share ``rise`` of the ``steps`` updates (Smith and Topin 2018), as PyTorch's OneCycleLR does; after the
    last update the rate stays at its end. ``straight`` goes along straight lines (its anneal_strategy "linear"). With
    ``three_phases`` it falls back to where it began in as many updates as it rose, and then to the end.
    """
    top, length = non_negative("one_cycle", "lr", lr), whole("one_cycle", "steps", steps)
    share = positive("one_cycle", "rise", rise)
    if share >= (0.5 if three_phases else 1):
        raise ConfigError(
            f"rise of one_cycle must be less than {'1/2 with three_phases' if three_phases else '1'}, not {rise!r}"
        )
    low, fall = positive("one_cycle", "start_factor", start_factor), positive("one_cycle", "final_factor", final_factor)
    first, last = top / low, top / low / fall
    peak = share * length - 1.0
    # Where each phase ends, and the rate there.
    corners = [(peak, top), (2.0 * share * length - 2.0, first)] if three_phases else [(peak, top)]
    corners.append((length - 1.0, last))

    def between(start: float, stop: float, done: Any) -> Any:
        way = ops.clip(done, 0.0, 1.0)
        return start + (stop - start) * (way if straight else 0.5 * (1.0 - ops.cos(math.pi * way)))

    def rate(count: Any) -> Any:
        begin, start, found = 0.0, first, None
        for end, stop in corners:
            phase = between(start, stop, (count - begin) / max(end - begin, 1e-9))
            found = phase if found is None else ops.where(count <= begin, found, phase)
            begin, start = end, stop
        return found

    described: dict[str, JSON] = {"rise": share, "start_factor": low, "final_factor": fall}
    described |= {"straight": bool(straight), "three_phases": bool(three_phases)}
    return Schedule(rate, {"kind": "one_cycle", "lr": top, "steps": length, **described})


def table(rates: Sequence[float]) -> Schedule:
    """``rates[count]``, and the last of them from then on: rates worked out beforehand, by any rule.

    PyTorch's MultiplicativeLR is ``table(lr * np.cumprod([1.0, *(factor(n) for n in range(1, steps))]))``. Raises
    :class:`ConfigError` for no rates and for a rate that is negative or not finite.
    """
    listed = [non_negative("table", "rates", float(number)) for number in rates]
    if not listed:
        raise ConfigError("a table of learning rates needs one rate at least")
    known = np.asarray(listed)

    def rate(count: Any) -> Any:
        return ops.take(known, ops.minimum(count, float(len(listed) - 1)).astype("int64"))

    return Schedule(rate, {"kind": "table", "rates": listed})
