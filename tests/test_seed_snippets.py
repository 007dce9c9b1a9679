"""The snippets that the project was founded on run as they are, each in a fresh process."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = Path(__file__).parent / "founding" / "seed_snippets.py"
FUNCTIONS = ("basic_usage", "distributed_model", "edge_features", "convolution_layers")


def test_these_are_all_the_snippets() -> None:
    assert tuple(name for name, value in runpy.run_path(str(SNIPPETS)).items() if callable(value)) == FUNCTIONS


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_snippet_runs_on_the_memory_backend(function: str, tmp_path: Path) -> None:
    code = f"import runpy; runpy.run_path({str(SNIPPETS)!r})[{function!r}]()"
    environment = {**os.environ, "DISTGNN_BACKEND": "memory"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
