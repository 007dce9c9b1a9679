"""``distgnn bench`` shows what benchmarks wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distgnn.cli.app import app
from distgnn.errors import ConfigError

ROOT = Path(__file__).parents[2]
MACHINE = {"date": "2026-01-31", "threads": 2, "cpu_capability": "AVX2", "allocator": "glibc 2.36", "torch": "2.13.0"}


def line(asked: float, *, at_most: bool = False, **reached: float) -> dict[str, Any]:
    return {"what": "a sum", "against": "PyG", "asked": asked, "at_most": at_most, "reached": reached}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    machine = MACHINE | {"torch-geometric": "2.8.1", "dgl": None}
    lines = [line(10, random=12.345, star=9.5), line(0.06, at_most=True, random=0.04)]
    (tmp_path / "gin.json").write_text(json.dumps({"machine": machine, "asked": lines, "groups": {}}))
    (tmp_path / "accuracy.json").write_text(json.dumps({"GIN": [0.7]}))  # asks nothing
    return tmp_path


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_table_has_what_was_asked_what_was_reached_and_where(folder: Path) -> None:
    shown = printed(str(folder))
    for words in ("a sum", "at least 10x", "random 12.35x", "star 9.50x", "at most 6%", "random 4.0%"):
        assert words in shown
    assert "gin.json: 2026-01-31, 2 threads, AVX2, glibc 2.36, torch 2.13.0, torch-geometric 2.8.1\n" in shown
    assert "accuracy" not in shown


def test_a_line_is_reached_where_all_its_cases_are(folder: Path) -> None:
    found = json.loads(printed(str(folder), "--json"))
    assert [line["is_reached"] for line in found["lines"]] == [False, True]
    assert found["machines"]["gin.json"]["torch"] == "2.13.0"
    assert printed(str(folder), "--markdown").splitlines()[2:] == [
        "| a sum | PyG | at least 10x | random 12.35x, star 9.50x | no |",
        "| a sum | PyG | at most 6% | random 4.0% | yes |",
    ]


def test_the_documentation_has_the_table_of_its_results() -> None:
    assert printed(str(ROOT / "docs" / "results"), "--markdown") in (ROOT / "docs" / "performance.md").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no results of benchmarks: 'make bench' in the project's folder measures them"),
        ('{"GIN": [0.7]}', "has no results of benchmarks"),
        ("{", r"broken.json is no result of a benchmark: .*; delete it, and measure again"),
    ],
)
def test_where_there_are_no_results_it_says_how_to_make_them(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "broken.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        printed(str(tmp_path))
