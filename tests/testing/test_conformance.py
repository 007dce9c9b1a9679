"""``python -m distgnn.testing``: the kit as a command, on backends that conform and on one that does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

import distgnn
from distgnn.testing.__main__ import main
from distgnn.testing.conformance import Report, capabilities

if TYPE_CHECKING:
    from click.testing import Result

ROOT = Path(__file__).parents[2]
SORTED = """
import distgnn
from distgnn.backends.memory import MemoryBackend, MemoryEmbeddingStore

class SortedStore(MemoryEmbeddingStore):
    def lookup(self, ids):
        return super().lookup(ids.sort().values)

class SortedBackend(MemoryBackend):
    name = "sorted"

    def __init__(self, *, address: str = ""):
        if address:
            raise OSError(f"nobody listens at {address}")
        super().__init__()

    def open_embedding(self, spec):
        store = super().open_embedding(spec)
        store.__class__ = SortedStore
        return store

@distgnn.hookimpl
def distgnn_backend():
    return SortedBackend
"""


@pytest.fixture
def sorted_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a backend whose lookup gives rows in the order of sorted ids."""
    (tmp_path / "sorted_rows.py").write_text(SORTED)
    metadata = tmp_path / "distgnn_sorted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: distgnn-sorted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[distgnn]\nsorted = sorted_rows\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "sorted"


def run(*words: str) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, words)


def test_a_backend_that_conforms_is_reported_with_what_it_can_do() -> None:
    result = run("memory", "-k", "closing_twice or a_prefetch_sees")
    assert result.exit_code == 0, result.output
    sentence = "embeddings: a prefetch sees the updates that come before its end"
    assert f"skipped 1 as the store has no prefetch:\n        {sentence}\n" in result.stdout
    assert "| `memory` | cpu | float32, float64, float16, bfloat16 | " in result.stdout
    assert result.stdout.endswith("memory conforms on 1 rank: 4 passed, 0 failed, 1 skipped of 5 tests\n")


def test_of_a_backend_that_does_not_the_sentence_is_reported(sorted_backend: str) -> None:
    keyword = "lookup_keeps or closing_twice"
    result = run(sorted_backend, "-k", keyword)
    assert result.exit_code == 1, result.output
    assert "FAILED  embeddings: lookup keeps the order of ids and repeats duplicates" in result.stdout
    assert "assert torch.equal" in result.stdout or "assert False" in result.stdout
    assert result.stdout.endswith("does not conform on 1 rank: 4 passed, 1 failed, 0 skipped of 5 tests\n")
    report = json.loads(run(sorted_backend, "-k", keyword, "--json").stdout)
    assert (report["backend"], report["conforms"], report["collected"]) == ("sorted", False, 5)
    (failed,) = [each for each in report["outcomes"] if each["outcome"] == "failed"]
    assert failed["test"] == "TestEmbeddings::test_lookup_keeps_the_order_of_ids_and_repeats_duplicates"


def test_several_ranks_are_reported_together_and_stop_at_the_first_failure(sorted_backend: str) -> None:
    result = run("pyg", "--ranks", "2", "-k", "closing_twice")
    assert result.exit_code == 0, result.output
    assert "pyg conforms on 2 ranks: 4 passed, 0 failed, 0 skipped of 4 tests" in result.stdout
    result = run(sorted_backend, "--ranks", "2", "-k", "lookup_keeps or (Graphs and closing_twice)")
    assert result.exit_code == 1, result.output
    assert "FAILED  embeddings: lookup keeps the order of ids" in result.stdout
    assert "does not conform on 2 ranks: 0 passed, 1 failed, 0 skipped of 2 tests" in result.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sortd"], "no backend is called 'sortd', did you mean 'sorted'? known here: memory"),
        (["memory", "-o", "devise=1"], "its options: device"),
        (["memory", "-o", "device"], "--option 'device' has no value; write it as NAME=VALUE"),
        (["memory", "-k", "no_such_test"], "no test ran; none matches -k 'no_such_test'"),
        (
            ["sorted", "-o", "address=here"],
            "cannot be opened with {'address': 'here'}: OSError: nobody listens at here",
        ),
    ],
)
def test_what_could_not_be_tested_is_an_error_of_its_own(sorted_backend: str, words: list[str], error: str) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert error in result.stderr
    assert not result.stdout


def test_without_pytest_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['pytest'] = None; import distgnn.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert 'distgnn.testing needs pytest, which is not installed: pip install "distgnn[testing]"' in done.stderr


@pytest.mark.parametrize("name", ["memory", "pyg", "dgl"])
def test_the_table_of_the_documentation_is_what_the_backends_answer(name: str) -> None:
    try:
        opened = distgnn.use(name)
    except distgnn.BackendUnavailableError as error:
        pytest.skip(str(error))
    with opened as backend:
        report = Report(name, 1, 0, (), capabilities(backend))
    page = (ROOT / "docs" / "how-to" / "choose-a-backend.md").read_text()
    assert f"{report.heading}\n" in page
    assert f"\n{report.row}\n" in page
