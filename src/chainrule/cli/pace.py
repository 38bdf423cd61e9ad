"""How fast training goes, and how long it can still take."""

from __future__ import annotations

import math
from collections import deque

from chainrule.train import BatchEvent

_RATE_WINDOW = 5.0  # seconds
_SHORTEST_WINDOW = 0.05  # seconds; a rate over less would be noise
_EPOCHS_REMEMBERED = 8


class Pace:
    """Times of a training, by a clock that its callers read; a training may begin in the middle, when it is resumed."""

    def __init__(self, now: float) -> None:
        self.began = now
        self._epoch_began = now
        self._epoch_seconds: deque[float] = deque(maxlen=_EPOCHS_REMEMBERED)
        self._samples: deque[tuple[float, int]] = deque()
        self._first_fraction = 0.0
        self._event: BatchEvent | None = None

    def after_steps(self, event: BatchEvent, now: float) -> None:
        if self._event is None:
            before = event.examples * (event.batch - 1) // max(event.batch, 1)
            self._samples.append((self.began, (event.epoch - 1) * event.examples_per_epoch + before))
            self._first_fraction = epochs_done(event) - 1 / max(event.batches, 1)
        self._event = event
        if now - self._samples[-1][0] >= _SHORTEST_WINDOW:
            self._samples.append((now, (event.epoch - 1) * event.examples_per_epoch + event.examples))
            while len(self._samples) > 2 and now - self._samples[1][0] > _RATE_WINDOW:
                self._samples.popleft()

    def after_epoch(self, now: float) -> None:
        self._epoch_seconds.append(now - self._epoch_began)
        self._epoch_began = now

    def rate(self) -> float:
        """Examples a second over the last seconds; NaN when there are too few to tell."""
        if len(self._samples) < 2:
            return math.nan
        (then, before), (now, after) = self._samples[0], self._samples[-1]
        return (after - before) / (now - then)

    def seconds_per_epoch(self, now: float) -> float:
        """The mean of the last epochs; within the first, what it will take at this pace; NaN before the first batch."""
        if self._epoch_seconds:
            return sum(self._epoch_seconds) / len(self._epoch_seconds)
        done = 0.0 if self._event is None else epochs_done(self._event) - self._first_fraction
        return (now - self.began) / done if done > 0 else math.nan

    def seconds_left(self, now: float) -> float:
        """How long all the epochs that were asked for would take from here; NaN before the first batch."""
        if self._event is None:
            return math.nan
        return self.seconds_per_epoch(now) * max(0.0, self._event.epochs - epochs_done(self._event))


def epochs_done(event: BatchEvent) -> float:
    """Epochs finished, with the part of the present one."""
    return event.epoch - 1 + event.batch / max(event.batches, 1)
