"""The page: well-formed, self-contained, escaped, complete, and silent about what it does not know."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.report import Report, render_report

from . import samples

VOID = {"meta", "br", "hr", "col"}
REPORTS = {
    "binary": samples.classification(),
    "multiclass": samples.classification(("setosa", "versicolor", "virginica")),
    "regression": samples.regression(),
    "hostile": samples.hostile(),
}


class Page(HTMLParser):
    """Parses a page, insists that elements nest, and collects tags, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words).replace("\u00a0", " ").replace("\u202f", " "))


def drawings(source: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", source, flags=re.DOTALL)]


@pytest.mark.parametrize("name", REPORTS)
def test_well_formed_html_and_svg(name: str) -> None:
    source = render_report(REPORTS[name])
    page = Page(source)
    assert page.tags.count("html") == page.tags.count("body") == page.tags.count("h1") == 1
    charts = [svg for svg in drawings(source) if svg.get("role") == "img"]
    assert len(charts) >= 3
    for svg in charts:
        assert svg.get("aria-label")
        left, top, width, height = map(float, (svg.get("viewBox") or "").split())
        assert (left, top) == (0.0, 0.0)
        assert width > 0
        assert height > 0
    ids = [value for _, attribute, value in page.attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    wanted = [value for _, attribute, value in page.attributes if attribute == "aria-labelledby"]
    assert set(wanted) <= set(ids)


@pytest.mark.parametrize("name", REPORTS)
def test_loads_nothing_and_runs_nothing(name: str) -> None:
    source = render_report(REPORTS[name])
    page = Page(source)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for _, attribute, value in page.attributes:
        assert not attribute.startswith("on")
        if attribute in ("href", "src", "action", "xlink:href"):
            assert value.startswith("#")
    urls = re.findall(r"https?://[^\"'\s<]*|url\(|@import", source)
    assert set(urls) <= {"http://www.w3.org/2000/svg"}
    policy = [value for tag, attribute, value in page.attributes if tag == "meta" and "default-src" in value]
    assert policy[0].startswith("default-src 'none'")


def test_hostile_names_are_text_everywhere() -> None:
    source = render_report(samples.hostile())
    page = Page(source)
    assert "<script" not in source.lower()
    assert "\u202e" not in source
    assert "\x00" not in source
    source.encode("utf-8")
    for _, attribute, value in page.attributes:
        if "alert" in value:
            assert attribute in ("aria-label", "datetime")
    assert page.text.count("<script>alert('x')</script>\"&") >= 15
    titles = [title.text or "" for svg in drawings(source) for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert any("<script>" in title for title in titles)


def test_the_verdict_in_plain_words() -> None:
    report = samples.classification(
        metrics={"accuracy": 111 / 114}, baseline={"accuracy": 71.5 / 114}, baseline_answer="benign", confusion=None
    )
    text = Page(render_report(report)).text
    assert "97.4 % of 114 held-out rows classified correctly; always answering “benign” would reach 62.7 %." in text


def test_the_verdict_states_an_interval_for_a_plain_count() -> None:
    report = samples.classification(
        metrics={"accuracy": 0.95}, baseline={"accuracy": 0.6}, confusion=[[55, 5], [0, 40]], rows={"test": 100}
    )
    # Wilson's interval of 95 of 100 is 0.8882 to 0.9785.
    assert "likely between 88.8 % and 97.8 % (95 % interval)" in Page(render_report(report)).text
    weighted = samples.classification(
        metrics={"accuracy": 0.94}, baseline={"accuracy": 0.6}, confusion=[[55, 5], [0, 40]]
    )
    assert "interval)" not in Page(render_report(weighted)).text


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            samples.classification(metrics={"accuracy": 0.6, "roc_auc": 0.5}, baseline={"accuracy": 0.6}),
            "no better than a constant answer",
        ),
        (
            samples.classification(metrics={"accuracy": 0.9, "roc_auc": 0.88}, baseline={"accuracy": 0.9}),
            "another decision threshold",
        ),
        (
            samples.classification(
                metrics={"accuracy": 0.6}, baseline={"accuracy": 0.55}, confusion=[[6, 4], [4, 6]], rows={"test": 20}
            ),
            "may be luck",
        ),
        (
            samples.regression(metrics={"mae": 60.0}, baseline={"mae": 59.0}, baseline_answer=152.0),
            "Predictions of “progression” are off by 60.00 on average over 89 held-out rows; "
            "always answering 152.0 would be off by 59.00. The network is no better",
        ),
        (
            samples.regression(metrics={"mean_absolute_error": 40.0, "r2": 0.47}, baseline={}),
            "explains 47 % of the target’s variance",
        ),
    ],
)
def test_the_verdict_judges(report: Report, words: str) -> None:
    # The judgement is a paragraph of its own, so blanks between paragraphs do not count.
    text = Page(render_report(report).replace("</p><p", "</p> <p")).text
    assert words in text


def test_numbers_of_every_section_are_present() -> None:
    text = Page(render_report(samples.classification())).text
    for words in (
        "The weights of epoch 25 of 40 were kept",
        "no lower validation loss for 15 epochs",
        "kept: epoch 25",
        "layers.4.linear",
        "malignant taken for benign",
        "expected calibration error",
        "0.0812",
        "1.3 %",
        "< 0.1 %",
        "rare classes joined",
        "batch × 64",
        "2 114",  # parameters in all
        "0.9, 0.999",
        "Row 17 has no target",
        "numpy 2.4.6",
        "10.0 s",  # 40 epochs of a quarter of a second
    ):
        assert words in text, words


def test_confusion_cells_show_their_counts() -> None:
    source = render_report(samples.classification(confusion=[[39, 3], [2, 70]]))
    chart = next(svg for svg in drawings(source) if (svg.get("aria-label") or "").startswith("Confusion matrix"))
    shown = [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert {"39", "3", "2", "70"} <= set(shown)
    assert "109 of 114 right" in (chart.get("aria-label") or "")
    assert "95.1 %" in Page(source).text  # precision of the first class, 39 of 41


SECTIONS = {
    "metrics": ("scores", {}),
    "history": ("learning", []),
    "confusion": ("errors", None),
    "calibration": ("calibration", None),
    "importances": ("importances", []),
    "columns": ("columns", []),
    "network": ("network", []),
    "configuration": ("configuration", {}),
    "notices": ("notices", []),
}


@pytest.mark.parametrize("field", SECTIONS)
def test_a_missing_piece_leaves_out_its_section(field: str) -> None:
    anchor, nothing = SECTIONS[field]
    assert f'id="{anchor}"' in render_report(samples.classification())
    without = render_report(samples.classification(**{field: nothing}))
    assert f'id="{anchor}"' not in without
    Page(without)


def test_a_report_of_almost_nothing() -> None:
    text = Page(render_report(Report(title="empty", task="regression", target="y"))).text
    assert "Predicts y – regression" in text


def test_sections_come_in_the_order_a_reader_wants() -> None:
    source = render_report(samples.classification())
    anchors = ["scores", "learning", "gradients", "errors", "calibration", "importances", "columns", "network"]
    places = [source.index(f'id="{anchor}"') for anchor in [*anchors, "configuration", "notices"]]
    assert places == sorted(places)


wild = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1e308, -1e308, 5e-324, 1e-300, 1.0])


@settings(deadline=None, max_examples=80)
@given(st.lists(wild, min_size=1, max_size=7), st.integers(1, 5))
def test_any_numbers_make_a_well_formed_page(values: list[float], epochs: int) -> None:
    supply = itertools.cycle(values)

    def draw() -> float:
        return next(supply)

    changes: dict[str, Any] = {
        "history": [
            {
                "epoch": epoch,
                "loss": draw(),
                "val_loss": draw(),
                "accuracy": draw(),
                "learning_rate": draw(),
                "seconds": draw(),
                "gradient_norms": {"a": draw(), "b": draw()},
            }
            for epoch in range(1, epochs + 1)
        ],
        "best_epoch": 1,
        "rows": {"test": draw()},
        "importances": [("a", draw(), draw()), ("b", draw(), draw())],
        "columns": [{"name": "a", "missing": draw()}],
        "network": [("a", 1, draw())],
    }
    classification = samples.classification(
        **changes,
        metrics={"accuracy": draw(), "log_loss": draw(), "expected_calibration_error": draw()},
        baseline={"accuracy": draw()},
        confusion=[[draw(), draw()], [draw(), draw()]],
        calibration=[
            {"lower": draw(), "upper": draw(), "predicted": draw(), "observed": draw(), "count": draw()}
            for _ in range(3)
        ],
    )
    regression = samples.regression(
        **changes,
        metrics={"mean_absolute_error": draw(), "r2": draw()},
        baseline={"mean_absolute_error": draw()},
        residuals=[(draw(), draw()) for _ in range(3)],
    )
    for report in (classification, regression):
        source = render_report(report)
        text = Page(source).text
        for svg in drawings(source):
            for node in svg.iter():
                for value in node.attrib.values():
                    assert not re.search(r"\b(nan|inf)\b", value), (node.tag, value)
        assert not re.search(r"\b(nan|inf)\b", text)


def test_values_of_the_wrong_type_are_shown_as_unknown() -> None:
    report = samples.classification(
        metrics={"accuracy": "much", "log_loss": None, "roc_auc": True, "brier": 10**400},
        history=[{"epoch": "one"}, {"epoch": 1, "loss": "low", "gradient_norms": 3}],
        importances=[(None, "a", "b")],
    )
    text = Page(render_report(report)).text
    assert "Log loss–" in text


def test_large_reports_stay_small_enough_to_open() -> None:
    report = samples.classification(
        tuple(f"class {number}" for number in range(60)),
        history=samples.history(5000, layers=40),
        best_epoch=4000,
        columns=[{"name": f"pixel {number}", "kind": "number"} for number in range(784)],
    )
    source = render_report(report)
    Page(source)
    assert len(source) < 3_000_000
    assert "Confusion matrix" not in source  # sixty classes are a table, not a drawing
    assert "16 of 40 layers" in source
