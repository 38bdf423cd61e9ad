"""Sheets of generated images as PNG files, epoch by epoch."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np

from chainrule.core.errors import ConfigError, DataError, MissingExtraError
from chainrule.core.files import atomic_write
from chainrule.train.callbacks import Callback
from chainrule.train.history import EpochRecord
from chainrule.train.stepping import StepTrainer

# Without Pillow it is said when a sheet is asked for.
Image: Any = importlib.import_module("PIL.Image") if importlib.util.find_spec("PIL") else None

NDArray = np.ndarray[Any, Any]


def image_sheet(images: NDArray, columns: int = 8, low: float = -1.0, high: float = 1.0, gap: int = 2) -> NDArray:
    """Images of shape (n, height, width[, 1 or 3]) side by side, as one uint8 image; [low, high] becomes black to white.

    Values outside are cut off, and NaN is shown black. Raises :class:`DataError` for any other shape.
    """
    given = np.asarray(images)
    if given.ndim == 3:
        given = given[..., None]
    if given.ndim != 4 or given.shape[-1] not in (1, 3) or not len(given):
        raise DataError(
            f"a sheet needs images of shape (n, height, width) or (n, height, width, 1 or 3), not {np.shape(images)}"
        )
    if columns < 1 or not high > low:
        raise ConfigError(
            f"a sheet needs at least one column and low < high, not {columns} columns from {low} to {high}"
        )
    count, height, width, channels = given.shape
    shades = np.nan_to_num((given.astype(np.float64) - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    pixels = np.round(np.clip(shades, 0.0, 1.0) * 255).astype(np.uint8)
    across = min(columns, count)
    down = -(-count // across)
    sheet = np.full((down * (height + gap) - gap, across * (width + gap) - gap, channels), 255, np.uint8)
    for number, image in enumerate(pixels):
        y, x = (number // across) * (height + gap), (number % across) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet[..., 0] if channels == 1 else sheet


def write_sheet(path: Path | str, images: NDArray, **options: Any) -> None:
    """Write :func:`image_sheet` as a PNG, whole or not at all. Raises :class:`MissingExtraError` without Pillow."""
    if Image is None:
        raise MissingExtraError("sheets of images need Pillow: pip install 'chainrule[images]'")
    sheet = Image.fromarray(image_sheet(images, **options))
    with atomic_write(Path(path)) as file:
        sheet.save(file, format="PNG")


@final
class SampleSheets(Callback):
    """Writes ``folder/epoch_0001.png`` and so on, after every so many epochs: what ``generate(trainer)`` returns, as a sheet.

    ``options`` are those of :func:`image_sheet`. Generate from noise that stays the same, and the sheets show how samples change.
    """

    def __init__(self, folder: Path | str, generate: Callable[[Any], NDArray], every: int = 1, **options: Any) -> None:
        if every < 1:
            raise ConfigError(f"every of SampleSheets is a number of epochs of at least 1, not {every!r}")
        if Image is None:
            raise MissingExtraError("sheets of images need Pillow: pip install 'chainrule[images]'")
        inspect.signature(image_sheet).bind(None, **options)  # refuses a misspelt one now, not after an epoch
        self.folder = Path(folder)
        self.generate = generate
        self.every = every
        self.options = options

    def on_epoch_end(self, trainer: StepTrainer, record: EpochRecord) -> None:
        if record["epoch"] % self.every == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_sheet(self.folder / f"epoch_{record['epoch']:04d}.png", self.generate(trainer), **self.options)
