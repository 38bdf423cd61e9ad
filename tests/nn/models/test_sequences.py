"""Models of sequences: shapes, counts of parameters, losses that fall, and searches against the ones written out."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ConfigError, DataError, ShapeError
from chainrule.nn import models

NDArray = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def parameters(model: nn.Module) -> int:
    return sum(leaf.size for leaf in model.named_parameters().values())


def test_counts_of_parameters_are_those_of_the_papers() -> None:
    assert parameters(models.bert_base(init=nn.initialisers.zeros)) == 109_482_240
    assert parameters(models.gpt2_small(init=nn.initialisers.zeros)) == 124_439_808


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_language_model_learns_a_cycle_and_goes_on_with_it(kind: Any) -> None:
    cr.seed(0)
    model = models.RecurrentLanguageModel(5, 8, 16, kind=kind)
    tokens = np.arange(40).reshape(2, 20) % 5
    trainer = cr.Trainer(model, loss=sequence_loss, optimizer=cr.optim.Adam(0.05), seed=0)
    trainer.fit((tokens[:, :-1], tokens[:, 1:]), epochs=60, batch_size=2)
    found = trainer.model.generate(np.array([[0, 1, 2], [3, 4, 0]]), 6)
    assert found.tolist() == [[3, 4, 0, 1, 2, 3], [1, 2, 3, 4, 0, 1]]


def sequence_loss(logits: Any, targets: Any, weights: Any = None) -> Any:
    return -(cr.log_softmax(logits) * cr.one_hot(targets, 5)).sum(-1).mean()


def test_generation_step_by_step_equals_the_whole_prompt_each_time() -> None:
    cr.seed(1)
    recurrent = models.RecurrentLanguageModel(7, 6, 8, 2)
    causal = models.GPT(
        7, 12, 8, 2, 2, 0.0, init=lambda shape, key=None, dtype="float32": nn.initialisers.normal(shape, std=0.7)
    )
    prompt = np.array([[1, 2, 3], [6, 0, 4]])
    for model in (recurrent, causal):
        tokens = prompt
        for _ in range(5):
            tokens = np.concatenate([tokens, model(tokens)[:, -1].argmax(-1)[:, None]], 1)
        np.testing.assert_array_equal(model.generate(prompt, 5), tokens[:, 3:])
        compiled = cr.compile(lambda m, p: m.generate(p, 5), engine="cpu")
        np.testing.assert_array_equal(compiled(model, prompt), tokens[:, 3:])
    drawn = causal.generate(prompt, 5, temperature=1.0, key=cr.random.key(0))
    np.testing.assert_array_equal(drawn, causal.generate(prompt, 5, temperature=1.0, key=cr.random.key(0)))
    with pytest.raises(ShapeError, match="3 tokens and 10 more are longer than the 12 positions"):
        causal.generate(prompt, 10)


WIDE = functools.partial(nn.initialisers.normal, std=0.7)


@pytest.mark.parametrize("settings", [{}, {"rotary": True}, {"block": 2}], ids=["plain", "rotary", "in blocks"])
def test_tokens_drawn_with_a_cache_are_those_drawn_from_the_whole_sequence(settings: Any) -> None:
    cr.seed(6)
    model = models.GPT(11, 16, 8, 2, 2, 0.0, init=WIDE, **settings).astype("float64")
    prompt, key = np.array([[1, 2, 3, 10], [6, 0, 4, 4], [5, 5, 9, 1]]), cr.random.key(1)
    keys = cr.random.split(key, 12)
    for temperature, top_k in ((0.0, None), (1.5, None), (1.5, 3)):
        tokens = prompt
        for own in keys:
            token = models.choose(model(tokens)[:, -1], temperature, own, top_k=top_k)
            tokens = np.concatenate([tokens, token[:, None]], 1)
        written = {"temperature": temperature, "top_k": top_k, "key": key}
        np.testing.assert_array_equal(model.generate(prompt, 12, **written), tokens[:, 4:])
    compiled = cr.compile(lambda m, p: m.generate(p, 12, **written), engine="cpu", batch=("p",))
    np.testing.assert_array_equal(compiled(model, prompt), tokens[:, 4:])
    np.testing.assert_array_equal(model.generate(prompt, 1), model(prompt)[:, -1:].argmax(-1))


def test_one_more_token_costs_one_row_of_attention() -> None:
    model = models.GPT(11, 24, 8, 2, 1, 0.0)
    graph = cr.trace(lambda m, p: m.generate(p, 20), model, np.zeros((1, 4), int))
    (loop,) = (node for node in graph.nodes if node.primitive.name == "scan")
    sizes = [math.prod(value.shape) for node in loop.attributes["body"].nodes for value in node.outputs]
    assert max(sizes) == 24 * 8, (
        "keys of all positions; the whole sequence would have 24 · 24 · 2 weights and 24 · 32 features"
    )


def test_a_loop_of_ones_own_with_a_cache_writes_the_same() -> None:
    cr.seed(7)
    model = models.GPT(11, 12, 8, 2, 2, 0.0, init=WIDE).astype("float64")
    prompt = np.array([[1, 2, 3], [6, 0, 4]])
    cache, written = nn.DecodingCache(12), []
    logits = model(prompt, cache)
    for place in range(3, 9):
        assert logits.shape == (2, 1, 11)
        written.append(logits[:, 0].argmax(-1))
        cache = nn.DecodingCache(12, place, cache.past)
        logits = model(written[-1][:, None], cache)
    np.testing.assert_array_equal(np.stack(written, 1), model.generate(prompt, 6))
    assert all(type(part) is np.ndarray and part.shape == (2, 2, 12, 4) for pair in cache.past for part in pair)
    with pytest.raises(ConfigError, match="made by fewer attention layers than are called now"):
        model(prompt[:, :1], nn.DecodingCache(12, 3, cache.past[:1]))


def test_a_cache_goes_with_causal_attention_alone() -> None:
    x = np.zeros((1, 3, 4))
    with pytest.raises(ConfigError, match="for causal self-attention without masks"):
        nn.MultiheadAttention(4, 2)(x, cache=nn.DecodingCache(5))
    layer = nn.MultiheadAttention(4, 2, causal=True)
    with pytest.raises(ConfigError, match="without masks"):
        layer(x, lengths=np.array([2]), cache=nn.DecodingCache(5))
    with pytest.raises(ShapeError, match="cache of 2 positions has no room for 3"):
        layer(x, cache=nn.DecodingCache(2))
    with pytest.raises(ShapeError, match="continued by one position at a time, not 3"):
        layer(x, cache=nn.DecodingCache(5, 1, [(x, x)]))
    with pytest.raises(ConfigError, match="number of steps is an integer of at least 1, not 0"):
        models.GPT(5, 8, 4, 2, 1).generate(np.zeros((1, 2), int), 0)
    with pytest.raises(ShapeError, match="sequence of 9 positions is longer than the 8 that have been learned"):
        nn.LearnedPositions(8, 4)(x, 6)


def test_a_recurrent_model_draws_all_its_tokens_from_the_key() -> None:
    cr.seed(1)
    model = models.RecurrentLanguageModel(7, 6, 8)
    prompt = np.array([[1, 2, 3], [6, 0, 4]])
    drawn = [model.generate(prompt, 20, temperature=3.0, key=cr.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    likeliest = model.generate(prompt, 20)
    np.testing.assert_array_equal(model.generate(prompt, 20, temperature=3.0, top_k=1), likeliest)


def test_tokens_are_drawn_with_the_probabilities_of_the_softmax() -> None:
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    drawn = models.choose(np.broadcast_to(logits, (20000, 4)), 2.0, cr.random.key(3))
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20000, expected, atol=0.012)
    drawn = models.choose(np.broadcast_to(logits, (20000, 4)), 2.0, cr.random.key(3), top_k=2)
    expected[[0, 3]] = 0
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20000, expected / expected.sum(), atol=0.012)
    with pytest.raises(ConfigError, match="temperature is at least 0"):
        models.choose(logits, -1.0)
    with pytest.raises(ConfigError, match="top_k is a number of tokens of at least 1, not 0"):
        models.choose(logits, 1.0, top_k=0)


def test_the_largest_of_an_axis_are_those_of_a_stable_sort() -> None:
    scores = RNG.integers(0, 6, (4, 9)).astype(np.float32)
    found, places = models.largest(scores, 4)
    np.testing.assert_array_equal(places, np.argsort(-scores, axis=-1, kind="stable")[:, :4])
    np.testing.assert_array_equal(found, -np.sort(-scores)[:, :4])


def test_gpt_is_causal_and_shares_its_embedding_with_the_head() -> None:
    cr.seed(2)
    model = models.GPT(11, 8, 8, 2, 2, 0.0)
    tokens = RNG.integers(0, 11, (2, 8))
    changed = tokens.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    np.testing.assert_array_equal(model(tokens)[:, :5], model(changed)[:, :5])
    assert model(tokens).shape == (2, 8, 11)
    gradient = cr.grad(lambda m: cr.square(m(tokens)).sum())(model).embedding.weight
    assert np.abs(gradient).sum(1).all(), "the head reaches every row"
    ends = [leaf.std() for path, leaf in model.named_parameters().items() if path.endswith("linear2.weight")]
    assert all(0.007 < std < 0.013 for std in ends)


def test_bert_reads_only_the_tokens_that_count() -> None:
    cr.seed(3)
    model = models.BERT(13, 8, 8, 2, 2)
    tokens, lengths = RNG.integers(0, 13, (2, 6)), np.array([6, 3])
    hidden, pooled = model(tokens, lengths=lengths)
    changed = tokens.copy()
    changed[1, 3:] = 0
    again, pooled_again = model(changed, lengths=lengths)
    assert (hidden.shape, pooled.shape) == ((2, 6, 8), (2, 8))
    np.testing.assert_allclose(again[1, :3], hidden[1, :3], rtol=1e-5)
    np.testing.assert_allclose(pooled_again, pooled, rtol=1e-5)
    assert not np.allclose(model(tokens, 0 * tokens + 1)[1], model(tokens)[1])


@pytest.mark.parametrize("make", [models.RecurrentClassifier, models.TransformerClassifier])
def test_classifiers_learn_which_token_a_sequence_holds(make: Any) -> None:
    cr.seed(4)
    small = {"embed_dim": 8, "hidden_size": 8} if make is models.RecurrentClassifier else {"d_model": 8, "nhead": 2}
    model = make(6, 2, **small)
    tokens = RNG.integers(0, 5, (64, 7))
    labels = np.arange(64) % 2
    tokens[labels == 1, RNG.integers(0, 7)] = 5
    trainer = cr.Trainer(model, loss=nn.losses.cross_entropy, optimizer=cr.optim.Adam(0.02), seed=0)
    trainer.fit((tokens, labels), epochs=15, batch_size=32)
    assert (np.asarray(trainer.predict(tokens)).argmax(-1) == labels).mean() > 0.95


# --- searches ----------------------------------------------------------------------------------------------------------

VOCABULARY, START, END, STEPS = 4, 0, 3, 4


@pytest.fixture(scope="module")
def translator() -> models.Seq2SeqTransformer:
    cr.seed(5)
    model = models.Seq2SeqTransformer(5, VOCABULARY, 8, 2, 1, 16, 0.0)
    return model.replace(head=nn.Linear(8, VOCABULARY, init=nn.initialisers.he_normal)).astype("float64")


SOURCE, LENGTHS = RNG.integers(0, 5, (3, 4)), np.array([4, 2, 3])


def log_probability(model: Any, number: int, tokens: tuple[int, ...]) -> float:
    """Of a target that ends with END or has STEPS tokens."""
    given = np.array([[START, *tokens[:-1]]])
    logits = model(SOURCE[number : number + 1], given, source_lengths=LENGTHS[number : number + 1])[0]
    return float(torch.log_softmax(torch.tensor(logits), -1).numpy()[range(len(tokens)), list(tokens)].sum())


def test_greedy_decoding_takes_the_likeliest_token_each_time(translator: Any) -> None:
    found = translator.greedy(SOURCE, STEPS, start=START, end=END, source_lengths=LENGTHS)
    for number, row in enumerate(found):
        tokens: list[int] = []
        while len(tokens) < STEPS:
            given = np.array([[START, *tokens]])
            logits = translator(SOURCE[number : number + 1], given, source_lengths=LENGTHS[number : number + 1])
            tokens.append(END if tokens and tokens[-1] == END else int(logits[0, -1].argmax()))
        assert row.tolist() == tokens
    settings: dict[str, Any] = {"start": START, "end": END, "source_lengths": LENGTHS}
    best, _ = translator.beam_search(SOURCE, STEPS, beams=1, **settings)
    np.testing.assert_array_equal(best[:, 0], found)
    np.testing.assert_array_equal(translator.greedy(SOURCE, 1, **settings), found[:, :1])


def test_searches_compiled_for_any_batch_find_the_same(translator: Any) -> None:
    settings: dict[str, Any] = {"start": START, "end": END}

    def search(model: Any, source: Any, lengths: Any) -> Any:
        found = model.greedy(source, STEPS, source_lengths=lengths, **settings)
        return found, *model.beam_search(source, STEPS, beams=3, source_lengths=lengths, **settings)

    compiled = cr.compile(search, engine="cpu", batch=("source", "lengths"))
    for size in (3, 2):
        given = translator, SOURCE[:size], LENGTHS[:size]
        for found, expected in zip(compiled(*given), search(*given), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_beam_that_holds_everything_finds_the_best_sequence(translator: Any) -> None:
    complete = {
        tokens[: tokens.index(END) + 1] if END in tokens else tokens
        for tokens in itertools.product(range(VOCABULARY), repeat=2)
    }
    found, scores = translator.beam_search(SOURCE, 2, start=START, end=END, beams=13, source_lengths=LENGTHS)
    for number in range(3):
        ranked = sorted(((log_probability(translator, number, tokens), tokens) for tokens in complete), reverse=True)
        assert len(ranked) == 13
        for (score, tokens), row, given in zip(ranked, found[number], scores[number], strict=True):
            assert tuple(row[: len(tokens)]) == tokens
            assert given == pytest.approx(score, rel=1e-9)


def test_beam_search_equals_the_one_written_out(translator: Any) -> None:
    beams, penalty = 2, 0.8
    found, scores = translator.beam_search(
        SOURCE, STEPS, start=START, end=END, beams=beams, length_penalty=penalty, source_lengths=LENGTHS
    )
    for number in range(3):
        kept: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for _ in range(STEPS):
            candidates = []
            for score, tokens in kept:
                if tokens and tokens[-1] == END:
                    candidates.append((score, tokens))
                else:
                    candidates += [
                        (log_probability(translator, number, (*tokens, t)), (*tokens, t)) for t in range(VOCABULARY)
                    ]
            kept = sorted(candidates, reverse=True)[:beams]
        ranked = sorted(((s / ((5 + len(t)) / 6) ** penalty, t) for s, t in kept), reverse=True)
        for (score, tokens), row, given in zip(ranked, found[number], scores[number], strict=True):
            assert tuple(row[: len(tokens)]) == tokens
            assert given == pytest.approx(score, rel=1e-9)
            assert all(row[len(tokens) :] == END)


@pytest.mark.parametrize(
    "make", [lambda: nn.models.GPT(7, 8, 8, 2, 1), lambda: nn.models.RecurrentLanguageModel(7, 4, 4)]
)
@pytest.mark.parametrize("prompt", [np.zeros((2, 0), int), np.array([1, 2])])
def test_a_prompt_holds_a_token(make: Any, prompt: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"a prompt has shape \(N, P\) with a token at least, not \("):
        make().generate(prompt, 3)


@pytest.mark.parametrize(
    "make", [lambda: nn.models.GPT(7, 8, 8, 2, 1), lambda: nn.models.RecurrentLanguageModel(7, 4, 4)]
)
def test_a_prompt_has_tokens_of_the_vocabulary(make: Any) -> None:
    with pytest.raises(DataError, match=r"a prompt has tokens from 0 to 6, but position \(0, 1\) holds 7"):
        make().generate(np.array([[6, 7]]), 3)


@pytest.mark.parametrize("search", ["greedy", "beam_search"])
def test_searches_refuse_tokens_that_there_are_not(translator: Any, search: str) -> None:
    run = functools.partial(getattr(translator, search), steps=2)
    with pytest.raises(ConfigError, match=r"start is a token, an integer from 0 to 3, not 4"):
        run(SOURCE, start=4, end=END)
    with pytest.raises(ConfigError, match=r"end is a token, an integer from 0 to 3, not -1"):
        run(SOURCE, start=START, end=-1)
    with pytest.raises(ConfigError, match=r"start is a token, an integer from 0 to 3, not True"):
        run(SOURCE, start=True, end=END)
    with pytest.raises(DataError, match=r"a source has tokens from 0 to 4, but position \(1, 0\) holds 5"):
        run(np.array([[4], [5]]), start=START, end=END)
    assert np.array_equal(
        run(SOURCE, start=np.int64(START), end=np.int64(END))[0], run(SOURCE, start=START, end=END)[0]
    )
