"""The Python of README.md and of the pages without a test of their own runs as it stands there."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import chainrule as cr
from chainrule import nn, ops
from chainrule.cli.main import run as command
from chainrule.engines.cpu.engine import ENGINE

ROOT = Path(__file__).parents[2]


def blocks(page, beginning):
    """The fenced and indented blocks of a page that begin so, each once."""
    text = (ROOT / page).read_text(encoding="utf-8")
    indented = [textwrap.dedent(block) for block in re.findall(r"(?<=\n\n)(?: {4}.*\n)+", text)]
    found = [*re.findall(r"```python\n(.*?)```", text, re.DOTALL), *indented]
    chosen = [block for block in found if block.startswith(beginning)]
    assert chosen, f"{page} has no block that begins with {beginning!r}"
    return chosen


def run(page, beginning, **names):
    for block in blocks(page, beginning):
        exec(compile(block, page, "exec"), names)
    return names


def test_ten_lines_of_python_learn(capsys):
    run("README.md", "import numpy")
    share = int(re.search(r"(\d+)% of the held-out points are right", capsys.readouterr().out)[1])
    assert share > 80


def test_a_run_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    age, level = rng.integers(20, 80, 120), rng.normal(size=120)
    rows = [f"{a},{b:.3f},{'ill' if b > 0 else 'well'}" for a, b in zip(age, level)]
    Path("patients.csv").write_text("\n".join(["age,level,diagnosis", *rows]) + "\n")
    Path("new.csv").write_text("age,level\n30,2.0\n40,-2.0\n")
    pytest.importorskip("duckdb")
    assert command(["train", "patients.csv", "--target", "diagnosis", "--epochs", "5"]) == 0
    assert "predictor" in run("README.md", "predictor =", cr=cr)


def test_pipelines(recwarn):
    sklearn = pytest.importorskip("sklearn")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).normal(size=(90, 3))
    names = run(
        "README.md",
        "from chainrule.sklearn",
        make_pipeline=make_pipeline,
        StandardScaler=StandardScaler,
        GridSearchCV=GridSearchCV,
        x=x,
        y=(x[:, 0] > 0).astype(int),
    )
    assert names["search"].best_score_ > 0.6, sklearn.__version__


@pytest.mark.parametrize(("page", "beginning"), [("README.md", "loss, grads"), ("docs/architecture.md", "rules =")])
def test_the_glass_box(page, beginning, capsys):
    cr.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 1, 0, 1, 0])

    def f(w, x):
        return ops.tanh(x @ w).sum()

    names = run(
        page,
        beginning,
        cr=cr,
        model=model,
        x=x,
        y=y,
        w=np.ones((3, 2)),
        f=f,
        my_gradient=lambda w, x: x.T @ (1 - np.tanh(x @ w) ** 2),
        loss_fn=lambda model, x, y: nn.losses.cross_entropy(model(x), y),
    )
    assert names["grads"].named_parameters().keys() == model.named_parameters().keys()


def test_sequences():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 32)).astype(np.float32)
    names = run("docs/sequences.md", "layer =", nn=nn, x=x, lengths=np.array([5, 2, 3]))
    assert names["logits"].shape == (3, 10)


def test_writing_one_token_at_a_time():
    model = nn.models.GPT(vocabulary=11, length=8, d_model=8, nhead=2, num_layers=1)
    names = run(
        "docs/sequences.md",
        "cache =",
        nn=nn,
        model=model,
        length=8,
        place=3,
        prompt=np.array([[1, 2, 3]]),
        token=np.array([[4]]),
    )
    assert names["logits"].shape == (1, 1, 11)


def test_the_cpu_engine():
    if ENGINE.problem() is not None:
        pytest.skip("there is no C compiler")
    w, y = np.ones((3, 2), np.float32), np.ones((2, 2), np.float32)

    def train_step(state, x, y):
        return state - 0.1 * cr.grad(lambda w: ((x @ w - y) ** 2).mean())(state)

    names = run("docs/cpu_engine.md", "step =", cr=cr, train_step=train_step, state=w, x=w.T, y=y)
    assert "cr_run" in names["step"].c_source
