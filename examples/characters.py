"""A character model of a text, trained by truncated backpropagation through time, that goes on with a beginning.

    python examples/characters.py [text file]

Without a file it learns a rhyme that repeats.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import chainrule as cr
from chainrule import nn, optim

RHYME = (
    "one two buckle my shoe, three four open the door, five six pick up sticks, seven eight lay them straight.\n" * 60
)
STREAMS, STEPS = 16, 32


def windows(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (windows · STREAMS, STEPS): each batch of STREAMS rows goes on where the one before it ended."""
    length = (len(codes) - 1) // (STREAMS * STEPS) * STEPS
    if length == 0:
        raise SystemExit(f"the text has {len(codes)} characters; {STREAMS * STEPS + 1} are the least to learn from")
    parts = [codes[k : k + STREAMS * length].reshape(STREAMS, -1, STEPS) for k in (0, 1)]
    x, y = (part.transpose(1, 0, 2).reshape(-1, STEPS) for part in parts)
    return x, y


def main(epochs: int = 4) -> str:
    text = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else RHYME
    alphabet = sorted(set(text))
    codes = np.array([alphabet.index(character) for character in text])
    cr.seed(0)
    model = nn.models.RecurrentLanguageModel(len(alphabet), 32, 96, kind="lstm", stateful=STREAMS)
    x, y = windows(codes)
    # The batches follow one another, so nothing is shuffled; between them the layer carries the state and no gradient.
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=optim.Adam(1e-2), seed=0)
    history = trainer.fit((x, y), epochs=epochs, batch_size=STREAMS, shuffle=False)
    for record in history.records:
        print(f"epoch {record.numbers['epoch']}: {record.numbers['loss']:.3f} nats for each character")
    beginning = text[:12]
    prompt = np.array([[alphabet.index(character) for character in beginning]])
    written = np.asarray(trainer.model.generate(prompt, 100))[0]
    return beginning + "".join(alphabet[code] for code in written)


if __name__ == "__main__":
    print(main())
