"""bench/plot.py draws valid SVG whose dots lie where the numbers are; bench/report.py links it."""

import importlib
import re
import xml.etree.ElementTree as ET

import plot
import pytest
import report

SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {"processor": "p", "cores": 2, "isa": "avx2", "torch": "2", "python": "3.11"}


def elements(svg, name):
    """All elements of a name in an SVG text."""
    return list(ET.fromstring(svg).iter(SVG + name))  # noqa: S314  of our own drawing


def dots(svg):
    """Places of all dots by series, as far as the legend has none."""
    groups = {group.get("id"): [*group.iter(SVG + "use")] for group in elements(svg, "g")}
    return {
        name: [(float(dot.get("x")), float(dot.get("y"))) for dot in found]
        for name, found in groups.items()
        if found and not re.search(r"_\d+$", name or "_1")  # not matplotlib's own
    }


def test_lines_are_logarithmic():
    sizes = [{"size": n, "network": "a < b", "ms": n / 100} for n in (256, 512, 1024)]
    result = {"title": "steps & sizes", "columns": ["size", "network", "ms"], "rows": sizes}
    svg = plot.draw(result | {"plot": {"x": "size", "y": "ms", "series": "network"}})
    (x1, y1), (x2, y2), (x3, y3) = dots(svg)["a < b"]
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert x1 < x2
    assert y1 > y2
    words = [element.text for element in elements(svg, "text")]
    assert {"steps & sizes", "a < b", "256", "1024"} <= set(words)


def test_a_plot_may_have_rows_of_its_own():
    result = {"title": "t", "columns": ["size"], "rows": [["256"]]}
    data = [{"size": 1, "count": 3.0, "net": "plain"}, {"size": 2, "count": 4.0, "net": "ours"}]
    svg = plot.draw(result | {"plot": {"x": "size", "y": "count", "series": "net", "rows": data}})
    assert {name: len(found) for name, found in dots(svg).items()} == {"plain": 1, "ours": 1}


def test_tables_of_ops_become_dots():
    rows = [
        {"what": "8 x 4", "dtype": "float32", "ours ms": 1.0, "p20 - p80": "1 - 2", "eager ms": 10.0},
        {"what": "8 x 8", "dtype": "float32", "ours ms": 10.0, "p20 - p80": "1 - 2", "eager ms": ""},
    ]
    result = {"title": "t", "columns": ["what", "dtype", "ours ms", "p20 - p80", "eager ms"], "rows": rows}
    places = dots(plot.draw(result))
    ours, eager = places["ours"], places["eager"]
    assert len(ours) == 2
    assert len(eager) == 1  # what is not a number is not drawn
    assert ours[1][0] == eager[0][0]  # the same number in the same place
    assert ours[0][1] == eager[0][1]  # and row
    assert ours[0][0] < ours[1][0]
    as_lists = result | {"rows": [list(row.values()) for row in rows]}
    assert plot.draw(as_lists) == plot.draw(result)


def test_tables_without_sizes_have_no_plot():
    assert plot.draw({"title": "t", "columns": ["clip", "frame ms"], "rows": [["a", 1.0]]}) is None


def test_the_page_links_the_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "PLOTS", tmp_path / "plots")
    row = {"what": "8 x 4", "ours ms": 1.0, "eager ms": 10.0}
    columns = ["what", "ours ms", "eager ms"]
    result = {"title": "warp on the CPU", "columns": columns, "rows": [row], "environment": MACHINE}
    page = report.page({"warp": result}, {})
    assert "`python bench/warp.py`; p, 2 cores" in page
    assert "![warp on the CPU](plots/warp.svg)" in page
    assert "No GPU is in these tables." in page
    assert (tmp_path / "plots" / "warp.svg").read_text(encoding="utf-8").endswith("</svg>\n")
    assert "![" not in report.page({"gmac": result | {"columns": ["ours"]}}, {})
    page = report.page({}, {"warp": result | {"environment": MACHINE | {"gpu": "some GPU"}}})
    assert "`python bench/warp.py --device cuda`; some GPU; p" in page
    assert "plots/warp-cuda.svg" in page
    assert "No GPU" not in page


def test_a_plot_without_matplotlib_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot, "PLOTS", tmp_path)
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    result = {"title": "t", "columns": ["what", "ours ms"], "rows": [["8 x 4", 1.0]]}
    assert plot.write("warp", result) is None
    (tmp_path / "warp.svg").write_text("drawn before")
    assert plot.write("warp", result) == tmp_path / "warp.svg"
    assert "matplotlib is not installed: warp.svg is left as it is" in capsys.readouterr().err


def test_every_script_that_leaves_results_is_on_the_page():
    writers = {"timing.write(", "timing.report(", "timing.save("}
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in report.BENCH.glob("*.py")}
    leave = {name for name, text in scripts.items() if name != "timing" and any(word in text for word in writers)}
    assert leave == set(report.SCRIPTS)


@pytest.mark.parametrize("name", report.SCRIPTS)
def test_every_script_finds_what_it_imports(name):
    """Its own parts of the package; what only benchmarks need may be missing."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("fastreenact"):
            raise
