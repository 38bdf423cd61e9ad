import subprocess
import sys

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn
from chainrule.core.errors import ChainruleError, DataError, RunError, WeightsError
from chainrule.core.weights import load_weights, save_weights
from chainrule.engines.cpu.engine import ENGINE as CPU
from chainrule.runs import load_model, write_model


def infer(model, inputs):
    features = cr.stack([inputs["a"], inputs["b"]], 1).astype("float32")
    logits = model(features)
    return {"logits": logits, "choice": cr.argmax(logits, 1)}


@pytest.fixture
def written(tmp_path):
    cr.seed(1)
    model = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm(5), nn.ReLU(), nn.Linear(5, 3))
    inputs = {"a": np.arange(4.0), "b": np.arange(4.0) ** 2}
    write_model(tmp_path, infer, model, inputs)
    return tmp_path, model, inputs


def test_a_loaded_model_gives_the_same_numbers_for_any_batch_size(written):
    folder, model, inputs = written
    predictor = load_model(folder)
    assert {name: str(type) for name, type in predictor.input_types.items()} == {"a": "f64[B]", "b": "f64[B]"}
    for count in (4, 1, 3):
        batch = {name: array[:count] for name, array in inputs.items()}
        expected = infer(model, batch)
        found = predictor(batch)
        np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-6)
        np.testing.assert_array_equal(found["choice"], expected["choice"])


def test_it_needs_none_of_the_code_that_defined_the_model(written):
    folder, _, _ = written
    script = (
        "import sys, numpy as np; from pathlib import Path; from chainrule.runs import load_model\n"
        "p = load_model(Path(sys.argv[1])); print(p({'a': np.ones(2), 'b': np.ones(2)})['logits'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 3)"


def test_a_missing_input_is_named(written):
    with pytest.raises(DataError, match="needs an input 'b', which is missing; it has a"):
        load_model(written[0])({"a": np.ones(2)})


def test_weights_for_another_architecture_name_the_layer_and_both_shapes(written):
    folder, _, _ = written
    arrays, _ = load_weights(folder / "model.safetensors")
    arrays["layers.3.weight"] = np.zeros((5, 4), np.float32)
    save_weights(folder / "model.safetensors", arrays)
    with pytest.raises(WeightsError, match=r"layers\.3\.weight.*\(?5, 4\)?.*\(?5, 3\)?|layers\.3\.weight.*5, 3.*5, 4"):
        load_model(folder)


def test_missing_and_damaged_files_are_one_sentence(written):
    folder, _, _ = written
    graph = (folder / "model.graph").read_text()
    for text in (
        "",
        "graph",
        graph[: len(graph) // 2],
        graph.replace("contract", "exec"),
        graph.replace("f32[5", "f32[6", 1),
    ):
        (folder / "model.graph").write_text(text)
        with pytest.raises(RunError, match=r"model\.graph is not a graph that can be used"):
            load_model(folder)
    (folder / "model.graph").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="not the text of a graph"):
        load_model(folder)
    (folder / "model.graph").unlink()
    with pytest.raises(RunError, match=r"model\.graph cannot be read"):
        load_model(folder)


def test_every_flipped_bit_of_the_weights_is_noticed(written):
    folder, _, _ = written
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for position in range(0, len(content), 37):
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ChainruleError):
            load_model(folder)


def test_a_model_is_compiled_when_its_calls_have_cost_as_much(tmp_path):
    """By counts, not by a clock: at the same call every time, and never for a model that was told its engine."""
    cr.seed(1)
    write_model(
        tmp_path,
        infer,
        nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, 3)),
        {"a": np.ones(2), "b": np.ones(2)},
    )
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=20_000) for name in "ab"}
    seen = []
    for _ in range(2):
        predictor, engines = load_model(tmp_path), []
        first = predictor(batch)
        while predictor.engine == "reference" and len(engines) < 60:
            engines.append(predictor.engine)
            last = predictor(batch)
        seen.append((len(engines), predictor.engine))
        np.testing.assert_allclose(last["logits"], first["logits"], rtol=1e-4, atol=1e-5)
    assert seen[0] == seen[1]
    assert seen[0][1] == ("cpu" if CPU.problem() is None else "reference")
    told = load_model(tmp_path, engine="reference")
    for _ in range(seen[0][0] + 1):
        told(batch)
    assert told.engine == "reference"
