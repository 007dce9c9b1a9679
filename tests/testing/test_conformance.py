"""``python -m distgnn.testing``: the kit as a command, on backends that conform and on one that does not."""

from __future__ import annotations

import json
import re
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
    from collections.abc import Callable

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
    install(tmp_path, monkeypatch, "sorted", SORTED)
    return "sorted"


WRONG_RANKS = """
import distgnn
from distgnn.backends.pyg import PygBackend

FAULT = {fault!r}

class WrongBackend(PygBackend):
    name = FAULT

    def _agreed(self, spec, kind):
        return self.attached(spec, kind) if FAULT == "takes_any_spec" else super()._agreed(spec, kind)

    @property
    def world_size(self):
        return 1 if FAULT == "world_of_one" else super().world_size

    def open_embedding(self, spec):
        store = super().open_embedding(spec)
        if FAULT == "one_rank_raises" and self.rank == 1:
            store.lookup = lambda ids: 1 / 0
        if FAULT == "another_error":
            whole = store.apply_gradients
            def apply_gradients(*words):
                try:
                    whole(*words)
                except distgnn.PeerLostError as error:
                    raise RuntimeError("Connection closed by peer") from error
            store.apply_gradients = apply_gradients
        return store

@distgnn.hookimpl
def distgnn_backend():
    return WrongBackend
"""


@pytest.fixture
def wrong_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Give a function that installs a backend of several ranks with a fault."""

    def installed(fault: str) -> str:
        install(tmp_path, monkeypatch, fault, WRONG_RANKS.format(fault=fault))
        return fault

    return installed


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    (folder / f"{name}_module.py").write_text(source)
    metadata = folder / f"distgnn_{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: distgnn-{name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[distgnn]\n{name} = {name}_module\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


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


def test_many_failures_are_told_with_where_to_begin(sorted_backend: str) -> None:
    result = run(sorted_backend, "-k", "TestEmbeddings and (lookup_keeps or duplicate or random_calls)")
    assert result.stdout.count("FAILED") > 1, result.output
    assert "\nbegin with the first: one fault fails many tests\n" in result.stdout


def test_several_ranks_are_reported_together_and_stop_at_the_first_failure(wrong_ranks: Callable[[str], str]) -> None:
    result = run("pyg", "--ranks", "2", "-k", "closing_twice or rank_that_dies")
    assert result.exit_code == 0, result.output
    assert "pyg conforms on 2 ranks: 5 passed, 0 failed, 0 skipped of 5 tests" in result.stdout
    result = run(wrong_ranks("one_rank_raises"), "--ranks", "2", "-k", "lookup_keeps or (Graphs and closing_twice)")
    assert result.exit_code == 1, result.output
    assert "FAILED  embeddings: lookup keeps the order of ids" in result.stdout
    # Rank 0 fails later, for rank 1 has left its call.
    assert re.search(r"rank 1: ZeroDivisionError: .*\n(.*\n)*        rank 0: ", result.stdout), result.stdout
    assert "does not conform on 2 ranks: 0 passed, 1 failed" in result.stdout


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("world_of_one", "its ranks are those that were started"),
        ("takes_any_spec", "ranks that open other specs are a conflict on every rank"),
        ("another_error", "a rank that dies is a peer lost error of every other"),
    ],
)
def test_backends_of_wrong_ranks_are_found(wrong_ranks: Callable[[str], str], fault: str, test: str) -> None:
    result = run(wrong_ranks(fault), "--ranks", "2", "-k", test.replace(" ", "_"), "-o", "timeout=20")
    assert result.exit_code == 1, result.output
    assert f": {test}" in result.stdout
    assert "does not conform on 2 ranks: 0 passed, 1 failed, 0 skipped" in result.stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["sortd"], "no backend is called 'sortd', did you mean 'sorted'? known here: memory"),
        (["memory", "-o", "devise=1"], "its options: device"),
        (["memory", "-o", "device"], "--option 'device' has no value; write it as NAME=VALUE"),
        (["memory", "--ranks", "2"], "backend 'memory' has no rank and world_size (distgnn.SupportsRanks): each of 2 "),
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
