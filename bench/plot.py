"""Plots of result files as small SVG pictures, both axes logarithmic: lines over sizes, or dots for shapes."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

PLOTS = Path(__file__).resolve().parent / "plots"
# Colours that the colour-blind tell apart. Source: Okabe and Ito, Color Universal Design, 2002.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
WIDTH, ROW, CHARACTER, TOP = 820, 17, 6.6, 44  # px; characters of 12 px are about 6.6 wide
Series = dict[str, list[tuple[float, float]]]


class Axis:
    """Values between `low` and `high`, logarithmically on pixels from `first` to `last`."""

    def __init__(self, values: Sequence[float], first: float, last: float):
        self.low, self.high = math.log10(min(values)), math.log10(max(values))
        room = max(0.03 * (self.high - self.low), 0.02)
        self.low, self.high, self.first, self.last = self.low - room, self.high + room, first, last

    def __call__(self, value: float) -> float:
        return self.first + (math.log10(value) - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """1, 2 and 5 of each decade inside; 1 alone where those would be many."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        steps = (1, 2, 5) if self.high - self.low < 3 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        return [value for value in found if self.low <= math.log10(value) <= self.high]


def text(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line of the grid."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#ddd"/>'


def picture(title: str, parts: list[str], height: float) -> str:
    """The SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" '
        f'font-size="12" fill="#222"><rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    )
    return "\n".join([head, text(12, 20, title, extra=' font-weight="bold"'), *parts, "</svg>\n"])


def lines(title: str, x_name: str, y_name: str, series: Series) -> str:
    """Curves, the legend beside them."""
    names = max(map(len, series)) * CHARACTER + 40
    bottom, points = 380, [point for curve in series.values() for point in curve]
    x_axis = Axis([x for x, _ in points], 60, WIDTH - names)
    y_axis = Axis([y for _, y in points], bottom, TOP)
    parts = [text(12, TOP - 6, y_name), text((60 + WIDTH - names) / 2, bottom + 34, x_name, "middle")]
    for y in y_axis.ticks():
        parts += [line(60, y_axis(y), WIDTH - names, y_axis(y)), text(54, y_axis(y) + 4, f"{y:g}", "end")]
    for x in sorted({x for x, _ in points}):
        parts += [line(x_axis(x), TOP, x_axis(x), bottom), text(x_axis(x), bottom + 16, f"{x:g}", "middle")]
    for i, (name, curve) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [f"{x_axis(x):.1f} {y_axis(y):.1f}" for x, y in sorted(curve)]
        parts.append(f'<path d="M{"L".join(places)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [dot(x_axis(x), y_axis(y), colour) for x, y in curve]
        parts += [dot(WIDTH - names + 18, TOP + 8 + i * ROW, colour)]
        parts += [text(WIDTH - names + 28, TOP + 12 + i * ROW, name)]
    return picture(title, parts, bottom + 46)


def dot(x: float, y: float, colour: str) -> str:
    """One measurement."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def dots(title: str, x_name: str, labels: list[str], series: dict[str, list[float]]) -> str:
    """A row for every label, in it a dot of every series; values that are not above 0 are left out."""
    left, top = max(map(len, labels)) * CHARACTER + 20, TOP + 16
    axis = Axis([x for values in series.values() for x in values if x > 0], left, WIDTH - 20)
    bottom = top + len(labels) * ROW
    parts = [text((left + WIDTH) / 2, bottom + 32, x_name, "middle")]
    for x in axis.ticks():
        parts += [line(axis(x), top, axis(x), bottom), text(axis(x), bottom + 16, f"{x:g}", "middle")]
    for i, label in enumerate(labels):
        y = top + (i + 0.5) * ROW
        parts += [line(left, y, WIDTH - 20, y), text(left - 8, y + 4, label, "end")]
    place = left
    for k, (name, values) in enumerate(series.items()):
        colour = COLOURS[k % len(COLOURS)]
        parts += [dot(place, TOP - 2, colour), text(place + 9, TOP + 2, name)]
        place += len(name) * CHARACTER + 34
        parts += [dot(axis(x), top + (i + 0.5) * ROW, colour) for i, x in enumerate(values) if x > 0]
    return picture(title, parts, bottom + 44)


def draw(result: dict[str, Any]) -> str | None:
    """The plot of a result file, or None for a table without sizes or shapes.

    `plot` in the file says how: {"x", "y", "series"}: the columns of a line plot, and "rows" where they are not those
    of the table. Without it, the columns in ms of a table with shapes are plotted as dots.
    """
    columns, how = result["columns"], result.get("plot")
    if how:
        series: Series = {}
        for row in how.get("rows", result["rows"]):
            series.setdefault(str(row[how["series"]]), []).append((row[how["x"]], row[how["y"]]))
        return lines(result["title"], how["x"], how["y"], series)
    times = sorted((column for column in columns if column.endswith(" ms")), key=lambda name: name != "ours ms")
    if not times or not {"what", "size"} & set(columns):
        return None
    rows = [row if isinstance(row, dict) else dict(zip(columns, row, strict=True)) for row in result["rows"]]
    first = columns[: min(map(columns.index, times))]
    labels = [", ".join(str(row.get(column, "")) for column in first) for row in rows]
    values = {name.removesuffix(" ms"): [_number(row.get(name)) for row in rows] for name in times}
    return dots(result["title"], "ms", labels, values)


def _number(cell: Any) -> float:
    """A cell as a number, 0 where it holds none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return 0.0


def write(name: str, result: dict[str, Any]) -> Path | None:
    """Draw a result file's plot into bench/plots/<name>.svg; its path, or None where there is nothing to plot."""
    svg = draw(result)
    if svg is None:
        return None
    PLOTS.mkdir(exist_ok=True)
    path = PLOTS / f"{name}.svg"
    path.write_text(svg, encoding="utf-8")
    return path
