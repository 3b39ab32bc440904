"""Bars and lines as SVG text, for pages without scripts: sized for a phone, in the colours of the page around them."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 360  # units of the view box: a phone shows it at about one pixel a unit, so that letters keep their size
_ROW = 36  # height of a bar with its name
_LINES_HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40  # margins of a chart of lines
_NAME_LENGTH = 44  # characters of a name that fit above a bar
NUM_STYLES = 6  # series that can be told apart by colour; then the colours begin again, with another dash
_DASHES = ("", "6 3", "2 3")


def number(value: object) -> str:
    """A figure with as many digits as mean something; what is no finite number is a dash.

    Example:
        >>> [number(v) for v in (3, 0.12345, -12.345, 1234.5, 0.00002, float("nan"), None, True, "12 of 20")]
        ['3', '0.123', '-12.35', '1234', '2.0e-05', '-', '-', 'yes', '12 of 20']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1e}"
    return f"{value:.{3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def bars_svg(
    names: Sequence[str],
    values: Sequence[float | None],
    label: str,
    intervals: Sequence[tuple[float, float] | None] | None = None,
) -> str:
    """A bar to the right of zero for each value, to the left where it is negative, with its name above.

    Args:
        names: Of the bars, from top to bottom.
        values: One each; None or NaN draws no bar and says that it is not known.
        label: What the chart shows, for those who hear it.
        intervals: Lowest and highest of each value, drawn as a thin line.

    Raises:
        ValueError: If the lengths differ.
    """
    spans = [None] * len(names) if intervals is None else list(intervals)
    if not len(names) == len(values) == len(spans):
        raise ValueError(f"expected as many of each: {len(names)} names, {len(values)} values, {len(spans)} intervals")
    numbers = [math.nan if value is None else float(value) for value in values]
    ends = [end for span in spans if span is not None for end in span]
    shown = [0.0, *filter(math.isfinite, [*numbers, *ends])]
    low, high = min(shown), max(shown)
    scale = (WIDTH - 4) / ((high - low) or 1.0)

    def x(value: float) -> float:
        return 2 + (value - low) * scale

    parts = []
    for row, (name, value, span) in enumerate(zip(names, numbers, spans, strict=True)):
        top = row * _ROW
        has_span = span is not None and math.isfinite(value) and all(map(math.isfinite, span))
        short = name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 3] + "..."
        told = number(value) if math.isfinite(value) else "not known"
        inside = f" ({number(span[0])} to {number(span[1])})" if span is not None and has_span else ""
        parts.append(f"<g><title>{escape(f'{name}: {told}{inside}')}</title>")
        parts.append(f'<text x="2" y="{top + 14}">{escape(short)}</text>')
        parts.append(f'<text x="{WIDTH - 2}" y="{top + 14}" text-anchor="end">{escape(told)}</text>')
        if math.isfinite(value):
            left, right = sorted((x(0.0), x(value)))
            parts.append(f'<rect x="{left:.1f}" y="{top + 20}" width="{max(right - left, 0.5):.1f}" height="10"/>')
        if low < 0:
            parts.append(f'<path class="axis" d="M{x(0.0):.1f} {top + 17}v16"/>')
        if span is not None and has_span:
            first, last, middle = x(span[0]), x(span[1]), top + 25
            path = f"M{first:.1f} {middle}H{last:.1f}M{first:.1f} {middle - 5}v10M{last:.1f} {middle - 5}v10"
            parts.append(f'<path class="span" d="{path}"/>')
        parts.append("</g>")
    return _svg(parts, len(names) * _ROW, label)


def lines_svg(series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str, label: str) -> str:
    """Points of several series, joined, over common axes; a series' colour and dash are told by :func:`legend`.

    Args:
        series: Name -> points, in the order in which they are joined; a point that is no finite number is a gap.
        x_name: What the horizontal axis is, with its unit.
        y_name: What the vertical axis is, with its unit.
        label: What the chart shows, for those who hear it.
    """
    points = [point for line in series.values() for point in line if all(map(math.isfinite, point))]
    if not points:
        return _svg([f'<text x="{WIDTH / 2}" y="30" text-anchor="middle">no figures</text>'], 50, label)
    across, up = (ticks(min(p[axis] for p in points), max(p[axis] for p in points)) for axis in (0, 1))
    right, bottom = WIDTH - _RIGHT, _LINES_HEIGHT - _BOTTOM

    def place(point: tuple[float, float]) -> tuple[float, float]:
        shares = [(v - marks[0]) / (marks[-1] - marks[0]) for v, marks in zip(point, (across, up), strict=True)]
        return _LEFT + shares[0] * (right - _LEFT), bottom - shares[1] * (bottom - _TOP - 14)

    parts = [f'<text x="2" y="12">{escape(y_name)}</text>']
    for value in up:
        y = place((across[0], value))[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value, up)}</text>')
    for value in across:
        x = place((value, up[0]))[0]
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick_text(value, across)}</text>')
    middle, foot = (right + _LEFT) / 2, _LINES_HEIGHT - 6
    parts.append(f'<text x="{middle}" y="{foot}" text-anchor="middle">{escape(x_name)}</text>')
    for row, (name, line) in enumerate(series.items()):
        parts.append(f"<g {_style(row)}><title>{escape(name)}</title>")
        pen, path, dots = "M", "", []
        for point in line:
            if not all(map(math.isfinite, point)):
                pen = "M"
                continue
            x, y = place(point)
            path, pen = f"{path}{pen}{x:.1f} {y:.1f}", "L"
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        parts += [f'<path d="{path}"/>' if path else "", *dots, "</g>"]
    return _svg(parts, _LINES_HEIGHT, label)


def legend(names: Sequence[str]) -> str:
    """A list of the series of :func:`lines_svg` with their colours, as HTML."""
    swatch = '<svg class="swatch" viewBox="0 0 28 10" aria-hidden="true"><g {}><path d="M0 5H28"/></g></svg>'
    rows = (f"<li>{swatch.format(_style(row))} {escape(name)}</li>" for row, name in enumerate(names))
    return f'<ul class="legend">{"".join(rows)}</ul>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at most ``low`` to at least ``high``; about ``count`` of them.

    Steps are 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.03, 0.97)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        middle, half = (low + high) / 2, abs(low) / 2 or 0.5
        low, high = middle - half, middle + half
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def tick_text(value: float, marks: Sequence[float]) -> str:
    """A mark of an axis with as many decimals as the step needs.

    Example:
        >>> tick_text(0.5, [0.0, 0.25, 0.5]), tick_text(20.0, [0.0, 20.0])
        ('0.50', '20')
    """
    step = marks[1] - marks[0]
    decimals = next((n for n in range(7) if abs(round(step, n) - step) < 1e-9 * max(step, 1.0)), 7)
    return f"{value + 0.0:.{decimals}f}"


def _style(row: int) -> str:
    dash = _DASHES[row // NUM_STYLES % len(_DASHES)]
    return f'class="line c{row % NUM_STYLES}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    start = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return f"{start}{''.join(parts)}</svg>"
