"""Plots of result files as SVG pictures by matplotlib, logarithmic axes: lines over sizes, or dots for shapes.

The same numbers give the same file: no date in it, no names by chance, and text stays text.
"""

import importlib.util
import io
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

PLOTS = Path(__file__).resolve().parent / "plots"
# Colours that the colour-blind tell apart. Source: Okabe and Ito, Color Universal Design, 2002.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fastreenact",
    "font.size": 9,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.markersize": 5,
}
Series = dict[str, tuple[list[Any], list[Any]]]  # name -> x and y


def picture(title: str, names: tuple[str, str], series: Series, labels: list[str]) -> str:
    """The SVG file: curves, or dots in a row for each of `labels`; an element with the name of a series holds it."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    with matplotlib.rc_context(STYLE):
        figure = Figure((8.5, 1 + 0.18 * len(labels) if labels else 4.4), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel=names[0], ylabel=names[1], title=title)
        for (name, (x, y)), colour in zip(series.items(), cycle(COLOURS), strict=False):
            axes.plot(x, y, "o" if labels else "o-", label=name, gid=name, color=colour)
        if labels:
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.5, -0.5)
        else:
            axes.set_yscale("log")
        figure.legend(
            loc="outside upper right" if labels else "outside right upper", ncols=len(series) if labels else 1
        )
        for axis in (axes.xaxis,) if labels else (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        if not labels:
            axes.set_xticks(sorted({x for curve, _ in series.values() for x in curve}))
        axes.tick_params(which="both", length=0)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return svg.getvalue()


def draw(result: dict[str, Any]) -> str | None:
    """The plot of a result file, or None for a table without sizes or shapes.

    `plot` in the file says how: {"x", "y", "series"}: the columns of a line plot, and "rows" where they are not those
    of the table. Without it, the columns in ms of a table with shapes are plotted as dots.
    """
    columns, how = result["columns"], result.get("plot")
    series: Series = {}
    if how:
        for row in sorted(how.get("rows", result["rows"]), key=lambda row: row[how["x"]]):
            x, y = series.setdefault(str(row[how["series"]]), ([], []))
            x.append(row[how["x"]])
            y.append(row[how["y"]])
        return picture(result["title"], (how["x"], how["y"]), series, [])
    times = sorted((column for column in columns if column.endswith(" ms")), key=lambda name: name != "ours ms")
    if not times or not {"what", "size"} & set(columns):
        return None
    rows = [row if isinstance(row, dict) else dict(zip(columns, row, strict=True)) for row in result["rows"]]
    first = columns[: min(map(columns.index, times))]
    labels = [", ".join(str(row.get(column, "")) for column in first) for row in rows]
    for name in times:
        found = [(_number(row.get(name)), i) for i, row in enumerate(rows)]
        series[name.removesuffix(" ms")] = ([x for x, _ in found if x > 0], [i for x, i in found if x > 0])
    return picture(result["title"], ("ms", ""), series, labels)


def _number(cell: Any) -> float:
    """A cell as a number, 0 where it holds none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return 0.0


def write(name: str, result: dict[str, Any]) -> Path | None:
    """Draw a result file's plot into bench/plots/<name>.svg; its path, or None where there is nothing to plot."""
    path = PLOTS / f"{name}.svg"
    if importlib.util.find_spec("matplotlib") is None:
        print(f"matplotlib is not installed: {path.name} is left as it is", file=sys.stderr)
        return path if path.is_file() else None
    svg = draw(result)
    if svg is None:
        return None
    PLOTS.mkdir(exist_ok=True)
    path.write_text(svg, encoding="utf-8")
    return path
