"""Formats, scales and charts: round ticks, points in the right place, nothing outside its drawing."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrule.report.bars import Bar, bar_chart
from chainrule.report.formats import MINUS, amount, count, duration, percent, score, text_width
from chainrule.report.lines import Series, line_chart, spread_apart, thinned
from chainrule.report.markup import Markup, element, escape, fragment, shorten
from chainrule.report.matrix import confusion_chart
from chainrule.report.scale import make_scale
from chainrule.report.scatter import agreement_chart, calibration_chart, residual_chart, wilson_interval

SVG = "{http://www.w3.org/2000/svg}"
finite = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-12)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.findall(r"<svg .*?</svg>", svg, flags=re.DOTALL)[0])


def ascii_amount(written: str) -> float:
    plain = written.replace("\u202f", "").replace(MINUS, "-").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(plain.replace("×10", "e"))


@given(st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300), st.integers(1, 8))
def test_amounts_keep_their_significant_digits(value: float, digits: int) -> None:
    assert ascii_amount(amount(value, digits)) == pytest.approx(value, rel=0.6 * 10.0 ** (1 - digits), abs=1e-320)


def test_how_numbers_are_written() -> None:
    assert [amount(v) for v in (0.0, 1234.56, -0.000123451, 1.5e-7, 2.5e9, 99999.5)] == [
        "0",
        "1\u202f235",
        "−0.0001235",
        "1.5×10⁻⁷",
        "2.5×10⁹",
        "100\u202f000",
    ]
    assert [amount(v) for v in (math.nan, math.inf, -math.inf)] == ["–", "∞", "−∞"]
    assert amount(1.7976931348623157e308) == "1.798×10³⁰⁸"
    assert (count(1234567), count(-12), count(math.nan)) == ("1\u202f234\u202f567", "−12", "–")
    assert (percent(0.974), percent(-1e-9), percent(1.0)) == ("97.4\u00a0%", "0.0\u00a0%", "100.0\u00a0%")
    assert (score(0.98765), score(-1e-9), score(-0.25)) == ("0.988", "0.000", "−0.250")
    assert [duration(v).replace("\u00a0", " ") for v in (0.0123, 12.34, 59.97, 200, 7500, math.nan)] == [
        "12.3 ms",
        "12.3 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
        "–",
    ]


def test_text_is_escaped_unless_it_is_markup() -> None:
    assert element("p", "<b>", Markup("<i>x</i>"), None, ["&", 3]) == "<p>&lt;b&gt;<i>x</i>&amp;3</p>"
    assert element("a", "x", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
    assert fragment(escape("a'b")) == "a&#x27;b"
    assert escape("a\x00\u202eb\ud800\tc") == "a\ufffd\ufffdb\ufffd\tc"
    assert element("td") == "<td></td>"
    assert element("rect", x=1.0, fill_opacity="0.5", class_=None) == '<rect x="1" fill-opacity="0.5"/>'


@given(st.text(), st.integers(2, 30))
def test_shortened_text_keeps_both_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or (short[0] == text[0] and "…" in short)


@given(st.lists(finite, min_size=1, max_size=20), st.sampled_from(["linear", "integer"]))
def test_scales_hold_their_values_between_round_ticks(values: list[float], kind: str) -> None:
    scale = make_scale(values, 100.0, 300.0, kind=kind)  # type: ignore[arg-type]
    spare = 1e-9 * max(1.0, *map(abs, values))
    assert scale.low - spare <= min(values)
    assert max(values) <= scale.high + spare
    assert 2 <= len(scale.ticks) <= 8
    assert len(scale.ticks) == len(scale.labels)
    steps = np.diff(scale.ticks)
    assert np.allclose(steps, steps[0])
    leading = float(f"{steps[0]:.1e}".split("e")[0])
    assert min(abs(leading - round_step) for round_step in (1.0, 2.0, 2.5, 5.0, 10.0)) < 0.051
    assert scale(scale.low) == 100.0
    assert scale(scale.high) == 300.0


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=20))
def test_log_scales_have_a_tick_and_order_their_values(values: list[float]) -> None:
    scale = make_scale(values, 0.0, 100.0, kind="log")
    assert 1 <= len(scale.ticks) <= 8
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0.0 <= place <= 100.0 for place in places)


def test_familiar_ticks() -> None:
    assert make_scale([0.12, 0.97], 0, 1).labels == ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")
    assert make_scale([-7, 23], 0, 1).labels == ("−10", "0", "10", "20", "30")
    assert make_scale([1, 46], 0, 1, kind="integer", tight=True).labels == ("10", "20", "30", "40")
    assert make_scale([0.0001, 100], 0, 1, kind="log").labels == ("10⁻⁴", "0.01", "1", "100")
    assert make_scale([3, 3], 0, 1, kind="integer", tight=True).ticks[0] == 3
    assert make_scale([], 0, 1).ticks[-1] == 1.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=7))
def test_labels_are_spread_apart_inside_their_bounds(places: list[float]) -> None:
    moved = spread_apart(sorted(places), 13.0, 0.0, 100.0)
    assert all(b - a >= 13.0 - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 100.0 + 1e-9
    gaps = np.diff(sorted(places))
    if np.all(gaps >= 13.0):
        assert moved == pytest.approx(sorted(places))


def test_long_curves_keep_their_extremes() -> None:
    y = np.sin(np.arange(10_000) / 50.0)
    y[7777] = 40.0
    y[1234] = -30.0
    points = thinned(range(10_000), y.tolist())
    assert len(points) < 400
    assert (7777, 40.0) in points
    assert (1234, -30.0) in points
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_a_curve_passes_through_its_points() -> None:
    svg = parse(
        line_chart([Series("a", [1, 2, 3], [0.0, 1.0, 0.5]), Series("b", [1, 2, 3], [1.0, 0.0, 1.0])], title="t")
    )
    paths = [node.get("d") or "" for node in svg.iter(f"{SVG}path")]
    first = [tuple(map(float, point.split())) for point in re.split("[ML]", paths[0])[1:]]
    assert len(first) == 3
    (x1, low), (x2, high), (x3, middle) = first
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02)
    assert low > middle > high  # drawings grow downwards
    assert middle == pytest.approx((low + high) / 2, abs=0.02)
    labels = [node.text for node in svg.iter(f"{SVG}text")]
    assert "a" in labels
    assert "b" in labels


def test_gaps_break_a_curve_and_lone_points_stay_visible() -> None:
    svg = parse(line_chart([Series("a", [1, 2, 3, 4, 5], [1.0, 2.0, math.nan, 3.0, math.inf])], title="t"))
    path = next(node.get("d") or "" for node in svg.iter(f"{SVG}path"))
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert path.endswith("h0")


def test_a_logarithmic_axis_is_chosen_for_wide_ranges() -> None:
    wide = line_chart([Series("a", [1, 2, 3], [1.0, 0.1, 0.001])], title="t")
    narrow = line_chart([Series("a", [1, 2, 3], [1.0, 0.5, 0.1])], title="t")
    assert {"0.001", "0.01", "0.1"} <= {node.text for node in parse(wide).iter(f"{SVG}text")}
    assert "0.01" not in {node.text for node in parse(narrow).iter(f"{SVG}text")}


def test_the_marker_stands_at_its_epoch() -> None:
    chart = parse(
        line_chart([Series("a", [1, 2, 3], [3.0, 1.0, 2.0])], title="t", marker=2, marker_label="kept: epoch 2")
    )
    marker = next(node for node in chart.iter(f"{SVG}line") if node.get("class") == "marker")
    dot = next(node for node in chart.iter(f"{SVG}circle"))
    assert marker.get("x1") == marker.get("x2") == dot.get("cx")
    assert "kept: epoch 2" in {node.text for node in chart.iter(f"{SVG}text")}


def test_many_curves_get_a_legend() -> None:
    series = [Series(f"layer {k}", [1, 2], [1.0 + k, 2.0 + k]) for k in range(12)]
    chart = line_chart(series, title="t", ordered=True)
    assert chart.count("<li>") == 12
    styles = re.findall(r'class="curve ([^"]*)"', chart[: chart.index("<ul")])
    assert len(set(styles)) == 12
    assert styles[0].startswith("r0")
    assert styles[-1].startswith("r7")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(finite, st.floats(0, 100)), min_size=1, max_size=12))
def test_bars_start_at_zero_and_are_proportional(values: list[tuple[float, float]]) -> None:
    svg = parse(bar_chart([Bar(f"c{k}", value, std) for k, (value, std) in enumerate(values)], title="t"))
    bars = list(svg.iter(f"{SVG}rect"))
    assert len(bars) == len(values)
    widths = np.array([float(node.get("width") or 0) for node in bars])
    sizes = np.abs([value for value, _ in values])
    if sizes.max() > 0:
        assert np.allclose(
            widths / max(widths.max(), 1e-9), sizes / sizes.max(), atol=0.02 + 0.02 / max(widths.max(), 0.01)
        )


def texts_inside(svg: ElementTree.Element) -> None:
    """Every text, by the estimate of its width, lies inside the drawing."""
    width, height = map(float, (svg.get("viewBox") or "").split()[2:])
    for node in svg.iter(f"{SVG}text"):
        if node.get("transform"):
            continue
        x, y, words = float(node.get("x") or 0), float(node.get("y") or 0), node.text or ""
        size = text_width(words, 10.0)
        left = {"end": x - size, "middle": x - size / 2}.get(node.get("text-anchor") or "", x)
        assert left >= -2.0, words
        assert left + size <= width + 8.0, words
        assert 0.0 <= y <= height, words


@pytest.mark.parametrize(
    "name", ["a", "a long layer name", "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW" * 3, "日本語の列名がとても長い" * 2]
)
def test_text_stays_inside_its_drawing(name: str) -> None:
    texts_inside(parse(line_chart([Series(name + str(k), [1, 2], [k, 1e5 * k]) for k in range(3)], title="t")))
    texts_inside(parse(bar_chart([Bar(name, 0.5, 0.1), Bar("b", -12345.0)], title="t", x_label="drop")))
    for size in (1, 2, 5, 12, 40):
        matrix = (np.eye(size) * 1234567).tolist()
        texts_inside(parse(confusion_chart(matrix, [f"{name}{k}" for k in range(size)], title="t")))


def test_shading_follows_the_share_of_the_class() -> None:
    svg = parse(confusion_chart([[8, 2], [0, 1000]], ["a", "b"], title="t"))
    shades = [
        (node.get("class"), float(node.get("fill-opacity") or 0))
        for node in svg.iter(f"{SVG}rect")
        if "cell-frame" not in (node.get("class") or "")
    ]
    assert [style for style, _ in shades] == ["cell hit-cell", "cell miss-cell", "cell miss-cell", "cell hit-cell"]
    assert [shade for _, shade in shades] == pytest.approx([0.82, 0.28, 0.0, 1.0])


def test_scatter_charts_put_points_where_they_belong() -> None:
    svg = parse(agreement_chart([(0.0, 0.0), (10.0, 10.0), (math.nan, 1.0)], title="t"))
    circles = [(float(node.get("cx") or 0), float(node.get("cy") or 0)) for node in svg.iter(f"{SVG}circle")]
    diagonal = next(node for node in svg.iter(f"{SVG}line") if node.get("class") == "marker")
    assert circles == [
        (float(diagonal.get("x1") or 0), float(diagonal.get("y1") or 0)),
        (float(diagonal.get("x2") or 0), float(diagonal.get("y2") or 0)),
    ]
    residuals = parse(residual_chart([(5.0, 3.0), (1.0, 4.0)], title="t"))
    zero = next(float(node.get("y1") or 0) for node in residuals.iter(f"{SVG}line") if node.get("class") == "marker")
    above, below = (float(node.get("cy") or 0) for node in residuals.iter(f"{SVG}circle"))
    assert above < zero < below
    assert len(list(parse(agreement_chart([(k, k) for k in range(5000)], title="t")).iter(f"{SVG}circle"))) == 1000


def test_calibration_chart_has_a_point_a_bar_and_an_interval_for_each_bin() -> None:
    bins = [
        {"lower": 0.0, "upper": 0.1, "predicted": 0.05, "observed": 0.0, "count": 40.0},
        {"lower": 0.5, "upper": 0.6, "predicted": 0.55, "observed": 0.7, "count": 10.0},
    ]
    svg = parse(calibration_chart(bins, title="t", x_label="x", y_label="y"))
    assert len(list(svg.iter(f"{SVG}circle"))) == 2
    bars = [float(node.get("height") or 0) for node in svg.iter(f"{SVG}rect")]
    assert bars[0] == pytest.approx(4 * bars[1])
    assert len([node for node in svg.iter(f"{SVG}line") if "whisker" in (node.get("class") or "")]) == 2


def test_wilson_interval_against_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for hits, rows, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(hits / rows, rows) == pytest.approx((low, high), abs=5e-5)
