"""docs/reliability.md says what bench/results/reliability.json says, and every row is there."""

import json

import pytest
from reliability import PAGE, RESULTS, ROOT, Row, page


@pytest.fixture(scope="module")
def rows():
    if not PAGE.is_file():
        pytest.skip("needs the source tree")
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_page_is_of_the_results(rows):
    assert PAGE.read_text(encoding="utf-8") == page(rows)


def test_no_row_failed(rows):
    assert [name for name, row in rows.items() if not row["passed"]] == []


def test_amounts():
    small, full = Row(full=False), Row(full=True)
    assert (small.amount(3, 7), full.amount(3, 7)) == (3, 7)


def test_page_in_order():
    row = {"holds": "what", "figure": "1", "passed": True, "day": "2026-11-20"}
    text = page({"a": row | {"id": "F10"}, "b": row | {"id": "F2"}, "c": row | {"id": "V1", "passed": False}})
    places = [text.index(part) for part in ("| F2 |", "| F10 |", "## Times", "| V1 | what | **FAILED** 1")]
    assert places == sorted(places)


def test_rows_of_the_page_exist(rows):
    missing = [
        name
        for name in rows
        if f"def {name.partition('::')[2].partition('[')[0]}("
        not in (ROOT / name.partition("::")[0]).read_text(encoding="utf-8")
    ]
    assert missing == []
