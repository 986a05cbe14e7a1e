"""Pictures of measurements as SVG text: pure functions, no state, no files.

Colour never speaks alone: real is a filled bar, synthetic an outline; a gate that holds is a disc,
one that fails a diamond. Colours come from a ``Palette``: names of CSS variables for a page that
knows light and dark (``CSS``), or fixed colours for a picture that stands alone (``LIGHT``).
Blue and orange are Okabe and Ito's, which colour-blind people tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from html import escape

import numpy as np

_FONT = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif"
_NAME_LENGTH = 15
_TINY = 1e-12


@dataclass(frozen=True)
class Palette:
    """Colours by their role."""

    ink: str
    muted: str
    line: str
    surface: str
    real: str
    synthetic: str
    good: str
    bad: str
    warn: str


CSS = Palette(**{field.name: f"var(--{field.name})" for field in fields(Palette)})
LIGHT = Palette(
    ink="#1c2530",
    muted="#5a6572",
    line="#d9dee4",
    surface="#ffffff",
    real="#0072b2",
    synthetic="#c25400",
    good="#0b6e4f",
    bad="#b3261e",
    warn="#8a5a00",
)


@dataclass(frozen=True)
class Bar:
    """One cell of a histogram.

    Attributes:
        label: what it counts.
        real: share of the real rows.
        synthetic: share of the synthetic rows.
        start, end: where it lies on the axis; bars of categories are one wide.
    """

    label: str
    real: float
    synthetic: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """An interval beside its bounds and its reference.

    Attributes:
        value, low, high: the estimate and its interval.
        minimum, maximum: the bounds, or None.
        reference: what real data score against real data, or None.
        chance: how far from the reference real data fall by chance, or None.
        failed: draws a diamond instead of a disc.
        span: the ends of the axis; None fits it to the numbers.
        label: what a screen reader says.
    """

    value: float
    low: float
    high: float
    minimum: float | None = None
    maximum: float | None = None
    reference: float | None = None
    chance: float | None = None
    failed: bool = False
    span: tuple[float, float] | None = None
    label: str = "interval"


def whisker(data: Whisker, palette: Palette = CSS, width: int = 200, height: int = 28) -> str:
    """The interval as a bar with its estimate, over the region that the bounds forbid."""
    start, end = data.span or _fitted(data)
    middle, margin = height / 2, 7.0

    def x(number: float) -> float:
        share = (min(max(number, start), end) - start) / (end - start)
        return margin + share * (width - 2 * margin)

    parts = [_line(margin, middle, width - margin, middle, palette.line, 1.5)]
    forbidden = []
    if data.maximum is not None:
        forbidden.append((data.maximum, x(data.maximum), width - margin))
    if data.minimum is not None:
        forbidden.append((data.minimum, margin, x(data.minimum)))
    for bound, left, right in forbidden:
        parts.append(_rect(left, 3, max(right - left, 0), height - 6, palette.bad, opacity=0.13))
        parts.append(_line(x(bound), 1, x(bound), height - 1, palette.bad, 1.5))
    if data.reference is not None:
        if data.chance is not None:
            left, right = x(data.reference - data.chance), x(data.reference + data.chance)
            parts.append(_rect(left, 3, right - left, height - 6, palette.real, opacity=0.16))
        parts.append(_triangle(x(data.reference), height - 1, palette.real))
    colour = palette.bad if data.failed else palette.ink
    parts.append(_line(x(data.low), middle, x(data.high), middle, colour, 4, round_ends=True))
    parts.append(_mark(x(data.value), middle, colour, palette.surface, diamond=data.failed))
    return _svg(width, height, parts, data.label, "whisker")


def histogram(
    bars: Sequence[Bar],
    label: str,
    palette: Palette = CSS,
    width: int = 250,
    height: int = 104,
    *,
    root: bool = False,
) -> str:
    """Shares along an axis of numbers: filled for real, an outline for synthetic.

    Heights are densities (share by width), so that a wide bar is not a high one; or their
    ``root``, where one bar would dwarf the others.
    """
    if not bars:
        return ""
    start, end = bars[0].start, bars[-1].end
    top, floor = 6.0, height - 16.0

    def density(share: float, bar: Bar) -> float:
        height = share / max(bar.end - bar.start, _TINY)
        return math.sqrt(height) if root else height

    peak = max(_TINY, *(density(share, b) for b in bars for share in (b.real, b.synthetic)))

    def x(number: float) -> float:
        return 1 + (number - start) / max(end - start, _TINY) * (width - 2)

    def y(share: float, bar: Bar) -> float:
        return floor - density(share, bar) / peak * (floor - top)

    parts = []
    path = [f"M{x(start):.1f} {floor:.1f}"]
    for bar in bars:
        left, right = x(bar.start), x(bar.end)
        high = y(bar.real, bar)
        fill = _rect(left, high, max(right - left - 0.8, 0.5), floor - high, palette.real, 0.45)
        parts.append(_titled(fill, _bar_title(bar)))
        path.append(f"V{y(bar.synthetic, bar):.1f}H{right:.1f}")
    path.append(f"V{floor:.1f}")
    parts.append(
        f'<path d="{"".join(path)}" style="fill:none;stroke:{palette.synthetic};'
        'stroke-width:1.8;stroke-linejoin:round"/>'
    )
    parts.append(_line(0, floor, width, floor, palette.line, 1))
    parts.append(_text(1, height - 3, bars[0].label, palette.muted))
    if len(bars) > 1:
        parts.append(_text(width - 1, height - 3, bars[-1].label, palette.muted, anchor="end"))
    return _svg(width, height, parts, label, "histogram")


def category_bars(bars: Sequence[Bar], label: str, palette: Palette = CSS, width: int = 250) -> str:
    """Shares of categories: a filled bar for real above an outlined one for synthetic."""
    row = 22
    names = 12.0 + 6.6 * max((len(_short(bar.label)) for bar in bars), default=0)
    peak = max((_TINY, *(share for bar in bars for share in (bar.real, bar.synthetic))))
    scale = (width - names - 38) / peak
    parts = []
    for number, bar in enumerate(bars):
        y = number * row + 3.0
        drawn = [
            _text(names - 6, y + 12, _short(bar.label), palette.ink, anchor="end"),
            _rect(names, y, max(bar.real * scale, 0.5), 7, palette.real, 0.6),
            f'<rect x="{names + 0.6:.1f}" y="{y + 9:.1f}" '
            f'width="{max(bar.synthetic * scale - 1.2, 0.5):.1f}" height="6" '
            f'style="fill:none;stroke:{palette.synthetic};stroke-width:1.4"/>',
            _text(
                names + max(bar.real, bar.synthetic) * scale + 5,
                y + 12,
                f"{bar.real:.0%}",
                palette.muted,
            ),
        ]
        parts.append(_titled("".join(drawn), _bar_title(bar)))
    return _svg(width, max(len(bars), 1) * row + 2, parts, label, "categories")


def heatmap(
    matrix: np.ndarray,
    names: Sequence[str],
    label: str,
    palette: Palette = CSS,
    *,
    diverging: float | None = None,
    width: int = 300,
) -> str:
    """A square matrix of shares in grey, or of differences in orange (more) and blue (less).

    Args:
        matrix: shape (D, D).
        names: of its rows and columns; columns carry the numbers of the rows.
        label: what a screen reader says.
        palette: the colours.
        diverging: the absolute difference that is drawn in full colour; None for shares.
        width: in pixels.
    """
    size = len(names)
    left, top = 104.0, 16.0
    cell = (width - left - 2) / max(size, 1)
    small = max(min(10.0, cell * 0.62), 6.0)
    parts = []
    for i, name in enumerate(names):
        y = top + i * cell
        size_px = max(min(11.0, cell * 0.85), 6.5)
        text = f"{_short(name)} {i + 1}"
        parts.append(_text(left - 5, y + cell * 0.7, text, palette.ink, size_px, anchor="end"))
        middle = left + (i + 0.5) * cell
        parts.append(_text(middle, top - 4, str(i + 1), palette.muted, small, anchor="middle"))
        for j, other in enumerate(names):
            value = float(matrix[i, j])
            drawn = _heat_cell(left + j * cell, y, cell, value, diverging, palette)
            title = f"{name} × {other}: {value:.2f}"
            parts.append(drawn if i == j else _titled(drawn, title))
    return _svg(width, round(top + size * cell + 2), parts, label, "heatmap")


def two_curves(
    real: Sequence[float],
    synthetic: Sequence[float],
    label: str,
    palette: Palette = CSS,
    *,
    ends: tuple[str, str] = ("", ""),
    width: int = 400,
    height: int = 170,
) -> str:
    """Two curves over the same steps: real as a filled area, synthetic as a line.

    Args:
        real: heights of the area.
        synthetic: heights of the line, equally many.
        label: what a screen reader says.
        palette: the colours.
        ends: words at the ends of the axis.
        width: in pixels.
        height: in pixels.
    """
    low, high = min(*real, *synthetic), max(*real, *synthetic)
    top, floor, last = 8.0, height - 18.0, max(len(real) - 1, 1)

    def at(number: int, value: float) -> str:
        up = (value - low) / max(high - low, _TINY) * (floor - top)
        return f"{1 + number / last * (width - 2):.1f} {floor - up:.1f}"

    area = "L".join(at(number, value) for number, value in enumerate(real))
    line = "L".join(at(number, value) for number, value in enumerate(synthetic))
    parts = [
        f'<path d="M1 {floor:.1f}L{area}L{width - 1} {floor:.1f}Z" '
        f'style="fill:{palette.real};fill-opacity:0.4"/>',
        f'<path d="M{line}" style="fill:none;stroke:{palette.synthetic};stroke-width:2;'
        'stroke-linejoin:round"/>',
        _line(0, floor, width, floor, palette.line, 1),
        _text(1, height - 4, ends[0], palette.muted),
        _text(width - 1, height - 4, ends[1], palette.muted, anchor="end"),
    ]
    return _svg(width, height, parts, label, "curve")


def line_chart(
    points: Sequence[tuple[float, float]],
    label: str,
    palette: Palette = CSS,
    width: int = 400,
    height: int = 170,
) -> str:
    """A curve, such as the loss over the steps of a training."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) < 2:
        return ""
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    left, right, top, floor = 52.0, width - 10.0, 10.0, height - 24.0
    width_x, height_y = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0

    def at(x: float, y: float) -> str:
        across = left + (x - min(xs)) / width_x * (right - left)
        return f"{across:.1f},{floor - (y - min(ys)) / height_y * (floor - top):.1f}"

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = floor - share * (floor - top)
        parts.append(_line(left, y, right, y, palette.line, 1))
        tick = f"{min(ys) + share * height_y:.3g}"
        parts.append(_text(left - 6, y + 4, tick, palette.muted, anchor="end"))
    curve = " ".join(at(x, y) for x, y in finite)
    parts.append(
        f'<polyline points="{curve}" style="fill:none;stroke:{palette.real};stroke-width:2;'
        'stroke-linejoin:round"/>'
    )
    parts.append(_text(left, height - 6, f"step {min(xs):g}", palette.muted))
    parts.append(_text(right, height - 6, f"{max(xs):g}", palette.muted, anchor="end"))
    return _svg(width, height, parts, label, "curve")


def sign(kind: str, palette: Palette = CSS, size: int = 18) -> str:
    """Tick (``passed``), cross (``failed``), stroke (``warning``), dots (``open``) or a dash."""
    half = size / 2
    shapes = {
        "passed": (palette.good, "M-4 0.5L-1.2 3.4L4.2 -3.2"),
        "failed": (palette.bad, "M-3.2 -3.2L3.2 3.2M3.2 -3.2L-3.2 3.2"),
        "warning": (palette.warn, "M0 -4.2V1M0 3.6V4"),
        "open": (palette.muted, "M-3.9 0h.1M0 0h.1M3.8 0h.1"),
    }
    colour, path = shapes.get(kind, (palette.muted, "M-3.4 0H3.4"))
    parts = [
        f'<circle cx="{half:g}" cy="{half:g}" r="{half - 0.5:g}" style="fill:{colour}"/>',
        f'<path d="{path}" transform="translate({half:g} {half:g}) scale({size / 18:g})" '
        f'style="fill:none;stroke:{palette.surface};stroke-width:2.2;'
        'stroke-linecap:round;stroke-linejoin:round"/>',
    ]
    return _svg(size, size, parts, kind, "sign")


def _fitted(data: Whisker) -> tuple[float, float]:
    numbers = [data.value, data.low, data.high, data.minimum, data.maximum, data.reference]
    known = [number for number in numbers if number is not None]
    low, high = min(known), max(known)
    room = 0.14 * (high - low) or max(abs(high), 1.0) * 0.5
    start = 0.0 if 0.0 <= low <= 2 * room else low - room
    return start, high + room


def _heat_cell(
    x: float, y: float, size: float, value: float, diverging: float | None, palette: Palette
) -> str:
    strength = min(abs(value) / (diverging or 1.0), 1.0)
    signed = palette.synthetic if value >= 0 else palette.real
    colour = palette.ink if diverging is None else signed
    gap = min(1.0, size * 0.08)
    cell = _rect(x, y, size - gap, size - gap, palette.line, 0.35)
    cell += _rect(x, y, size - gap, size - gap, colour, strength)
    if diverging is not None and value < 0 and strength > 0.15:
        # A dot tells minus from plus without colour.
        cell += (
            f'<circle cx="{x + size / 2:.1f}" cy="{y + size / 2:.1f}" r="{size * 0.12:.1f}" '
            f'style="fill:{palette.surface}"/>'
        )
    return cell


def _bar_title(bar: Bar) -> str:
    return f"{bar.label}: real {bar.real:.1%}, synthetic {bar.synthetic:.1%}"


def _svg(width: int, height: int, parts: Sequence[str], label: str, kind: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" role="img" '
        f'aria-label="{_clean(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(parts)}</svg>'
    )


def _titled(content: str, title: str) -> str:
    return f"<g><title>{_clean(title)}</title>{content}</g>"


def _text(
    x: float, y: float, text: str, colour: str, size: float = 11, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'style="fill:{colour};font-size:{size:g}px;{_FONT}">{_clean(text)}</text>'
    )


def _rect(
    x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0
) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'style="fill:{colour};fill-opacity:{opacity:.3g}"/>'
    )


def _line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    colour: str,
    width: float,
    *,
    round_ends: bool = False,
) -> str:
    ends = ";stroke-linecap:round" if round_ends else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'style="stroke:{colour};stroke-width:{width:g}{ends}"/>'
    )


def _triangle(x: float, y: float, colour: str) -> str:
    return f'<path d="M{x:.1f} {y - 8:.1f}l4.5 8h-9z" style="fill:{colour}"/>'


def _mark(x: float, y: float, colour: str, surface: str, *, diamond: bool) -> str:
    style = f'style="fill:{colour};stroke:{surface};stroke-width:1.5"'
    if diamond:
        return f'<path d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z" {style}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}/>'


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _clean(text: str) -> str:
    """Escaped, without the control characters that XML forbids."""
    allowed = "".join(c for c in text if c in "\t\n" or (ord(c) >= 32 and c not in "\ufffe\uffff"))
    return escape(allowed.encode("utf-8", "replace").decode("utf-8"), quote=True)
