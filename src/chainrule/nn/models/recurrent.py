"""Recurrent networks over tokens: language models and classifiers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from chainrule.core.errors import ConfigError
from chainrule.nn.dropout import Dropout
from chainrule.nn.embedding import Embedding
from chainrule.nn.linear import Linear
from chainrule.nn.models.generation import check_prompt, check_steps, choose
from chainrule.nn.module import Module
from chainrule.nn.recurrent import GRU, LSTM, RNN, Recurrent
from chainrule.ops import random
from chainrule.ops.arrays import concatenate
from chainrule.ops.loops import scan
from chainrule.trace.array import ArrayLike, as_array, operation

Kind = Literal["lstm", "gru", "rnn"]
_KINDS: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


class RecurrentLanguageModel(Module):
    """The next token from those before: embedding, recurrent layers, a linear map. Mikolov et al. 2010; Graves 2013.

    ``model(tokens)`` takes integers (N, T) and returns logits (N, T, vocabulary), at each step for the token that follows;
    ``model(tokens, state)`` goes on from a state and with ``return_state=True`` a call returns ``(logits, state)``. With ``stateful=N``
    training carries the state from batch to batch (truncated backpropagation through time); see :class:`chainrule.nn.LSTM`.
    """

    def __init__(
        self,
        vocabulary: int,
        embed_dim: int = 128,
        hidden_size: int = 256,
        num_layers: int = 1,
        kind: Kind = "lstm",
        dropout: float = 0.0,
        *,
        stateful: int | None = None,
    ) -> None:
        self.embedding = Embedding(vocabulary, embed_dim)
        self.recurrent = _layer(kind)(embed_dim, hidden_size, num_layers, dropout=dropout, stateful=stateful)
        self.dropout = Dropout(dropout)
        self.head = Linear(hidden_size, vocabulary)

    def forward(self, tokens: ArrayLike, state: Any = None, *, return_state: bool = False) -> Any:
        hidden, end = self.recurrent(self.embedding(tokens), state)
        logits = self.head(self.dropout(hidden))
        return (logits, end) if return_state else logits

    def generate(
        self,
        prompt: ArrayLike,
        steps: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        key: ArrayLike | None = None,
    ) -> Any:
        """``steps`` more tokens after a prompt (N, P), of shape (N, steps): the likeliest, or drawn at a temperature above 0.

        ``top_k`` draws among so many of the likeliest. One step of the network each. Compile it to run fast:
        ``cr.compile(lambda m, p: m.generate(p, 200))(model, prompt)``.
        """
        return _generate(self, prompt, steps, functools.partial(choose, temperature=temperature, top_k=top_k), key)


class RecurrentClassifier(Module):
    """Logits for a sequence of tokens: embedding, recurrent layers, the state at the sequence's end, a linear map.

    ``model(tokens, lengths=None)`` takes integers (N, T) and returns (N, classes). ``bidirectional`` reads both ways.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        embed_dim: int = 128,
        hidden_size: int = 128,
        num_layers: int = 1,
        kind: Kind = "lstm",
        dropout: float = 0.0,
        *,
        bidirectional: bool = True,
    ) -> None:
        self.embedding = Embedding(vocabulary, embed_dim)
        self.recurrent = _layer(kind)(
            embed_dim,
            hidden_size,
            num_layers,
            dropout=dropout,
            bidirectional=bidirectional,
            return_sequences=False,
            return_state=False,
        )
        self.dropout = Dropout(dropout)
        self.head = Linear(hidden_size * (2 if bidirectional else 1), classes)

    def forward(self, tokens: ArrayLike, lengths: ArrayLike | None = None) -> Any:
        return self.head(self.dropout(self.recurrent(self.embedding(tokens), lengths=lengths)))


def _layer(kind: str) -> type[Recurrent]:
    if kind not in _KINDS:
        raise ConfigError(f"the kind of a recurrent model is one of {', '.join(_KINDS)}, not {kind!r}")
    return _KINDS[kind]


@operation
def _generate(
    model: RecurrentLanguageModel, prompt: ArrayLike, steps: int, draw: Callable[..., Any], key: ArrayLike | None
) -> Any:
    keys = None if key is None else as_array(random.split(key, check_steps(steps)))
    given, _ = check_prompt(prompt, model.embedding.weight.shape[0])
    logits, state = model(given, return_state=True)
    first = draw(logits[:, -1], key=None if keys is None else keys[0])

    def step(carry: Any, own: Any) -> Any:
        token, state = carry
        logits, state = model(token[:, None], state, return_state=True)
        following = draw(logits[:, -1], key=own)
        return (following, state), following

    _, rest = scan(step, (first, state), None if keys is None else keys[1:], length=check_steps(steps) - 1)
    return concatenate([first[:, None], rest.transpose(1, 0)], 1)
