"""The snippets that the project was founded on run as they are, each in a process of its own."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.jobs import StartJob

SNIPPETS = Path(__file__).parent / "founding" / "seed_snippets.py"
FUNCTIONS = ("basic_usage", "distributed_model", "edge_features", "convolution_layers")


def test_these_are_all_the_snippets() -> None:
    assert tuple(name for name, value in runpy.run_path(str(SNIPPETS)).items() if callable(value)) == FUNCTIONS


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_snippet_runs_on_the_memory_backend(start_job: StartJob, function: str, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(f"import runpy\nrunpy.run_path({str(SNIPPETS)!r})[{function!r}]()\n")
    (folder := tmp_path / "empty").mkdir()
    job = start_job(str(tmp_path / "snippet.py"), world_size=None, folders=[folder], DISTGNN_BACKEND="memory")
    assert job.codes(timeout=60) == [0], job.errors(0)
    assert not list(folder.iterdir())
