from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators import charts
from validators.charts import CSS, LIGHT, Bar, Whisker

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>"&\x00\ud800é'
number = st.floats(-1e9, 1e9)


def parsed(text: str) -> ET.Element:
    """The picture as XML: well-formed, labelled for screen readers, inside its frame."""
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert "NaN" not in text
    assert "nan" not in text.replace(HOSTILE, "")
    return root


@given(st.lists(number, min_size=3, max_size=3), number, number, number, st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_whisker_stays_inside_its_frame(ends, minimum, maximum, reference, failed):
    low, value, high = sorted(ends)
    data = Whisker(
        value=value,
        low=low,
        high=high,
        minimum=minimum,
        maximum=maximum,
        reference=reference,
        failed=failed,
        label=HOSTILE,
    )
    root = parsed(charts.whisker(data, width=200))
    for line in root.iter(f"{SVG}line"):
        assert all(-1 <= float(line.get(name)) <= 201 for name in ("x1", "x2"))


def test_failure_is_a_shape_and_not_only_a_colour():
    held = Whisker(value=0.5, low=0.4, high=0.6, maximum=0.7)
    missed = dataclasses.replace(held, failed=True)
    assert "<circle" in charts.whisker(held)
    assert "<circle" not in charts.whisker(missed)


def test_a_whisker_puts_the_bound_beside_the_interval():
    drawn = parsed(charts.whisker(Whisker(value=0.2, low=0.1, high=0.3, maximum=0.6)))
    lines = [(float(e.get("x1")), float(e.get("x2"))) for e in drawn.iter(f"{SVG}line")]
    bound, interval = lines[1], lines[2]
    assert interval[0] < interval[1] < bound[0] == bound[1]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_bars_are_drawn_whatever_their_shares(shares):
    bars = [Bar(HOSTILE, real, made, i, i + 1.0) for i, (real, made) in enumerate(shares)]
    for draw in (charts.histogram, charts.category_bars):
        assert len(list(parsed(draw(bars, "bars")).iter(f"{SVG}title"))) == len(bars)


def test_heights_are_densities():
    narrow_and_wide = [Bar("a", 0.5, 0.5, 0, 1), Bar("b", 0.5, 0.5, 1, 5)]
    root = parsed(charts.histogram(narrow_and_wide, "bars"))
    heights = [float(rect.get("height")) for rect in root.iter(f"{SVG}rect")]
    assert heights[0] == pytest.approx(4 * heights[1], rel=0.02)


def test_a_heatmap_marks_less_with_a_dot():
    matrix = np.array([[0.0, -0.5], [0.5, 0.0]])
    drawn = charts.heatmap(matrix, [HOSTILE, "b"], "difference", diverging=0.5)
    assert len(list(parsed(drawn).iter(f"{SVG}circle"))) == 1
    shares = charts.heatmap(np.abs(matrix), ["a", "b"], "shares")
    assert not list(parsed(shares).iter(f"{SVG}circle"))


def test_a_curve_skips_what_is_not_finite():
    points = [(0, 3.0), (1, float("nan")), (2, 1.0), (3, float("inf"))]
    parsed(charts.line_chart(points, "loss"))
    assert charts.line_chart([(0, 1.0)], "loss") == ""


@pytest.mark.parametrize("kind", ["passed", "failed", "warning", "none"])
def test_signs_differ_in_shape(kind):
    root = parsed(charts.sign(kind))
    others = {charts.sign(k) for k in ("passed", "failed", "warning", "none") if k != kind}
    path = next(root.iter(f"{SVG}path")).get("d")
    assert all(path not in other for other in others)


def test_a_picture_that_stands_alone_has_fixed_colours():
    data = Whisker(value=0.5, low=0.4, high=0.6, maximum=0.7)
    assert "var(" not in charts.whisker(data, LIGHT)
    assert "var(--ink)" in charts.whisker(data, CSS)


def luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_colours_of_words_have_enough_contrast():
    background = luminance(LIGHT.surface) + 0.05
    for name in ("ink", "muted", "real", "synthetic", "good", "bad", "warn"):
        assert background / (luminance(getattr(LIGHT, name)) + 0.05) >= 4.5, name
