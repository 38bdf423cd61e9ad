"""Sequence to sequence: an encoder-decoder Transformer with greedy and beam search."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule.core.errors import ConfigError
from chainrule.core.trees import tree_map
from chainrule.nn.decoding import DecodingCache
from chainrule.nn.dropout import Dropout
from chainrule.nn.embedding import Embedding
from chainrule.nn.linear import Linear
from chainrule.nn.models.generation import check_steps, check_token, check_tokens, largest
from chainrule.nn.module import Module
from chainrule.nn.positions import SinusoidalPositions
from chainrule.nn.transformer import TransformerDecoder, TransformerEncoder
from chainrule.ops.activations import log_softmax
from chainrule.ops.arrays import arange, argmax, broadcast_to, concatenate, full, take, take_along
from chainrule.ops.loops import scan
from chainrule.ops.math import where
from chainrule.trace.array import Array, ArrayLike, as_array, operation


class Seq2SeqTransformer(Module):
    """The next token of a target sequence from a source sequence and the target so far. Vaswani et al., NeurIPS 2017.

    ``model(source, target, *, source_lengths=None)`` takes integers (N, S) and (N, T), and returns logits (N, T, target vocabulary),
    at each step for the token that follows. Embeddings are scaled by √d_model and get sinusoidal positions.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        d_model: int = 128,
        nhead: int = 4,
        num_layers: int = 2,
        dim_feedforward: int = 512,
        dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        self.source_embedding = Embedding(source_vocabulary, d_model)
        self.target_embedding = Embedding(target_vocabulary, d_model)
        self.positions = SinusoidalPositions()
        self.dropout = Dropout(dropout)
        self.encoder = TransformerEncoder(d_model, nhead, num_layers, dim_feedforward, dropout, **settings)
        self.decoder = TransformerDecoder(d_model, nhead, num_layers, dim_feedforward, dropout, **settings)
        self.head = Linear(d_model, target_vocabulary)
        self.scale = float(np.sqrt(d_model))

    def forward(self, source: ArrayLike, target: ArrayLike, *, source_lengths: ArrayLike | None = None) -> Any:
        return self.decode(target, self.encode(source, source_lengths), source_lengths)

    def encode(self, source: ArrayLike, lengths: ArrayLike | None = None) -> Any:
        """The memory (N, S, d_model) of a source (N, S)."""
        embedded = self.positions(self.source_embedding(source) * self.scale)
        return self.encoder(self.dropout(embedded), lengths=lengths)

    def decode(
        self,
        target: ArrayLike,
        memory: ArrayLike,
        memory_lengths: ArrayLike | None = None,
        cache: DecodingCache | None = None,
    ) -> Any:
        """Logits (N, T, V) for the tokens that follow those of a target (N, T), which goes on from what a ``cache`` holds."""
        first = 0 if cache is None else cache.place
        embedded = self.dropout(self.positions(self.target_embedding(target) * self.scale, first))
        return self.head(self.decoder(embedded, memory, memory_lengths=memory_lengths, cache=cache))

    def greedy(
        self, source: ArrayLike, steps: int, *, start: int, end: int, source_lengths: ArrayLike | None = None
    ) -> Any:
        """The likeliest token at each of ``steps`` steps, (N, steps); after the token ``end`` only that token follows.

        The decoder runs over one position for each token: keys and values of those before are kept. Raises :class:`ConfigError` for
        a ``start`` or ``end``, and :class:`DataError` for a known token of the source, that the vocabulary does not have.
        """
        self._check(source, start, end)
        return _greedy(self, source, steps, start, end, source_lengths)

    def beam_search(
        self,
        source: ArrayLike,
        steps: int,
        *,
        start: int,
        end: int,
        beams: int = 4,
        length_penalty: float = 0.0,
        source_lengths: ArrayLike | None = None,
    ) -> Any:
        """``(tokens, scores)`` of the best ``beams`` continuations, best first: (N, beams, steps) and (N, beams).

        At every step the likeliest of all continuations of all beams are kept; finished ones, which end with ``end``, compete with
        their score as it is. A score is the log-probability, divided by ``((5 + length) / 6) ** length_penalty`` for the final order.
        Wu et al. 2016. With one beam this is the greedy choice. Raises what :meth:`greedy` raises.
        """
        if isinstance(beams, bool) or not isinstance(beams, int) or beams < 1:
            raise ConfigError(f"a beam search keeps at least 1 beam, not {beams!r}")
        self._check(source, start, end)
        return _beam_search(self, source, steps, start, end, beams, length_penalty, source_lengths)

    def _check(self, source: ArrayLike, start: Any, end: Any) -> None:
        """Refuse tokens that do not exist: they would be decoded to nothing but NaN."""
        check_tokens(source, self.source_embedding.weight.shape[0], "a source")
        for name, token in (("start", start), ("end", end)):
            check_token(name, token, self.target_embedding.weight.shape[0])


@operation
def _greedy(
    model: Seq2SeqTransformer, source: ArrayLike, steps: int, start: int, end: int, lengths: ArrayLike | None
) -> Any:
    decoder = _Decoder(model, model.encode(as_array(source), lengths), lengths, check_steps(steps))
    begun = full((decoder.memory.shape[0],), start, "int64")

    def chosen(logits: Array, done: Any) -> tuple[Array, Array]:
        token = where(done, end, argmax(logits, -1))
        return token, done | (token == end)

    def step(carry: Any, place: Any) -> Any:
        token, done, past = carry
        logits, past = decoder.following(token, place, past)
        token, done = chosen(logits, done)
        return (token, done, past), token

    logits, past = decoder.begin(begun)
    first, done = chosen(logits, False)
    _, rest = scan(step, (first, done, past), np.arange(1, steps))
    return concatenate([first[:, None], rest.transpose(1, 0)], 1)


@operation
def _beam_search(
    model: Seq2SeqTransformer,
    source: ArrayLike,
    steps: int,
    start: int,
    end: int,
    beams: int,
    penalty: float,
    lengths: ArrayLike | None,
) -> Any:
    memory = model.encode(as_array(source), lengths)
    count = memory.shape[0]
    counted = None if lengths is None else _for_each_beam(as_array(lengths), beams)
    decoder = _Decoder(model, _for_each_beam(memory, beams), counted, check_steps(steps))
    tokens = full((count, beams, steps + 1), start, "int64")
    # All beams begin alike, so only the first may be continued.
    scores = broadcast_to(where(arange(beams) == 0, 0.0, float(-np.inf)).astype(memory.dtype), (count, beams))
    ended = full((count, beams), steps + 1, "int64")

    def extended(logits: Array, carry: Any, place: Any) -> Any:
        """The best continuations: tokens, scores and ends of the beams, and the row among all beams that each one continues."""
        tokens, scores, ended = carry
        following = log_softmax(logits)
        size = int(following.shape[-1])
        following = following.reshape((count, beams, size))
        # What has ended is continued by its end, at no cost.
        done = (ended <= place)[..., None]
        following = where(done, where(arange(size) == end, 0.0, float(-np.inf)), following)
        best, flat_places = largest((scores[..., None] + following).reshape((count, beams * size)), beams)
        parent, token = flat_places // size, flat_places % size
        tokens = _written(_chosen(tokens, parent), place + 1, token)
        ended = _chosen(ended[..., None], parent)[..., 0]
        ended = where((token == end) & (ended > place), place + 1, ended)
        rows = (arange(count)[:, None] * beams + parent).reshape((count * beams,))
        return (tokens, best, ended), token.reshape((count * beams,)), rows

    def step(carry: Any, place: Any) -> Any:
        found, token, past = carry
        logits, past = decoder.following(token, place, past)
        found, token, rows = extended(logits, found, place)
        return (found, token, tree_map(lambda x: take(x, rows), past)), None

    logits, past = decoder.begin(tokens[..., 0].reshape((count * beams,)))
    found, token, _ = extended(logits, (tokens, scores, ended), 0)
    (found, _, _), _ = scan(step, (found, token, past), np.arange(1, steps))
    tokens, scores, ended = found
    if penalty:
        lengths_found = where(ended > steps, steps, ended).astype(scores.dtype)
        scores = scores / ((5 + lengths_found) / 6) ** penalty
    scores, order = largest(scores, beams)
    return _chosen(tokens, order)[..., 1:], scores


class _Decoder:
    """The decoder one token at a time, with logits (N, V) for the next one: what it keeps of the others is a tree of arrays."""

    def __init__(self, model: Seq2SeqTransformer, memory: Array, lengths: ArrayLike | None, length: int) -> None:
        self.model = model
        self.memory = memory
        self.lengths = lengths
        self.length = length
        self.memories: Any = ()

    def begin(self, token: Array) -> tuple[Array, Any]:
        cache = DecodingCache(self.length)
        logits = self.model.decode(token[:, None], self.memory, self.lengths, cache)[:, 0]
        self.memories = cache.memories
        return logits, cache.past

    def following(self, token: Array, place: Any, past: Any) -> tuple[Array, Any]:
        cache = DecodingCache(self.length, place, past, self.memories)
        return self.model.decode(token[:, None], self.memory, self.lengths, cache)[:, 0], cache.past


def _written(tokens: Array, place: Any, token: Array) -> Array:
    changed: Array = where(arange(tokens.shape[-1]) == place, token[..., None], tokens)
    return changed


def _chosen(x: Array, parent: Array) -> Array:
    """``out[n, k] = x[n, parent[n, k]]`` for x (N, K, L) and parent (N, K)."""
    count, beams, size = x.shape
    columns = broadcast_to(x.transpose(0, 2, 1)[:, None], (count, beams, size, beams))
    taken: Array = take_along(columns, broadcast_to(parent[..., None], (count, beams, size)))
    return taken


def _for_each_beam(x: Array, beams: int) -> Array:
    """Every row ``beams`` times in a row."""
    count, rest = x.shape[0], x.shape[1:]
    repeated: Array = broadcast_to(x[:, None], (count, beams, *rest)).reshape((count * beams, *rest))
    return repeated
