"""The whole kit on an installed backend, and its report."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from contextlib import closing, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import distgnn
from distgnn.distributed.communicator import SupportsRanks
from distgnn.errors import BackendError
from distgnn.storage.specs import EmbeddingSpec, TensorSpec
from distgnn.testing.embedding_updates import FLOATS
from distgnn.testing.ranks import run_on_ranks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distgnn.storage.protocols import Backend
    from distgnn.storage.registry import Use

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_IT = """
import pytest
import torch

import distgnn

class It:
    device = torch.device({device!r})

    @pytest.fixture
    def backend(self):
        with distgnn.use({name!r}, **{options!r}) as backend:
            yield backend
"""
_FILES = {
    "pytest.ini": """
[pytest]
addopts = --import-mode=importlib -k "{keyword}" -p no:cacheprovider -p no:faulthandler -p no:timeout -p no:xdist
""",
    "conftest.py": """
from distgnn.testing.conformance import Recorder

def pytest_configure(config):
    config.pluginmanager.register(Recorder({folder!r}))
""",
    "test_it.py": _IT
    + """
from distgnn.testing import BackendTests, CommunicatorTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

class TestBackend(It, BackendTests): ...
class TestCommunicator(It, CommunicatorTests): ...
class TestEmbeddings(It, EmbeddingStoreTests): ...
class TestTensors(It, TensorStoreTests): ...
class TestGraphs(It, GraphStoreTests): ...
""",
    "test_lost.py": _IT
    + """
from distgnn.testing import LostRankTests

class TestRanks(It, LostRankTests): ...
""",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test.

    Args:
        test: Its suite and name: ``TestEmbeddings::test_closing_twice_is_allowed``, with its case in brackets.
        outcome: ``passed``, ``failed`` or ``skipped``.
        message: What was asserted, or why it was skipped.
    """

    test: str
    outcome: str
    message: str = ""

    @property
    def sentence(self) -> str:
        """The sentence of the contract that it is about: ``embeddings: closing twice is allowed``."""
        suite, _, name = self.test.partition("[")[0].rpartition("::")
        return f"{suite.removeprefix('Test').lower()}: {name.removeprefix('test_').replace('_', ' ')}"


@dataclass(frozen=True)
class Report:
    """The findings of the kit.

    Args:
        backend: The name that was asked for.
        ranks: How many processes ran the tests together.
        collected: How many tests there are; several ranks stop at the first failure.
        outcomes: Those that ran.
        capabilities: What the backend can do, as columns of a table.
    """

    backend: str
    ranks: int
    collected: int
    outcomes: tuple[Outcome, ...]
    capabilities: Mapping[str, str]

    @property
    def conforms(self) -> bool:
        """Whether every test ran, and none failed."""
        return not self.having("failed") and len(self.outcomes) == self.collected

    def having(self, outcome: str) -> list[Outcome]:
        """Give the tests that ended so."""
        return [each for each in self.outcomes if each.outcome == outcome]

    @property
    def row(self) -> str:
        """The capabilities as a row of a Markdown table; :attr:`heading` is above it."""
        return f"| {' | '.join(self.capabilities.values())} |"

    @property
    def heading(self) -> str:
        """The first two lines of that table."""
        return f"| {' | '.join(self.capabilities)} |\n|{'---|' * len(self.capabilities)}"


class Recorder:
    """A pytest plugin that records outcomes, one file a rank.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self._file = Path(folder, f"{os.environ.get('RANK', '0')}.jsonl")

    def _write(self, **line: object) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the tests."""
        self._write(collected=len(session.items))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Count no tests as none, which a file has where ``-k`` matches others alone."""
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down what is no mere preparation."""
        if report.when == "call" or not report.passed:
            message = "" if report.passed else _message(report.longrepr)
            now = time.monotonic()  # one clock for all processes of a host
            self._write(test=report.nodeid.partition("::")[2], outcome=report.outcome, message=message, time=now)


def _message(found: Any) -> str:
    if isinstance(found, tuple):  # a skip: file, line, reason
        return str(found[2]).removeprefix("Skipped: ")
    crash = getattr(found, "reprcrash", None)
    return str(crash.message if crash else found).strip()


def check(
    name: str,
    *,
    ranks: int = 1,
    options: Mapping[str, object] | None = None,
    keyword: str = "",
    timeout: float = 600.0,
) -> Report:
    """Run the kit on a backend. Shows progress on stderr where one rank runs it.

    Args:
        name: A name of :func:`distgnn.list_backends`.
        ranks: In how many processes at once.
        options: What to open it with.
        keyword: Only the tests whose names match, as pytest's ``-k``.
        timeout: Seconds that several ranks may take.

    Raises:
        BackendError: It is unknown, not available, or does not take such options.
    """
    options = dict(options or {})
    with _opened(name, options) as backend:
        if ranks > 1 and not isinstance(backend, SupportsRanks):
            raise BackendError(
                f"backend {name!r} has no rank and world_size (distgnn.SupportsRanks): each of {ranks} processes would "
                "be a world of its own; test it on one rank"
            )
        can = capabilities(backend)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        values = {"name": name, "options": options, "device": can["device"], "keyword": keyword, "folder": made}
        for file, text in _FILES.items():
            (folder / file).write_text(text.lstrip().format(**values))
        ended = _run(folder, ranks, timeout)
        collected, outcomes = _read(folder)
    if ended and not any(each.outcome == "failed" for each in outcomes):
        outcomes.append(Outcome("TestBackend::test_its_ranks_run_to_the_end", "failed", ended))
    return Report(name, ranks, collected, tuple(outcomes), can)


def _opened(name: str, options: dict[str, Any]) -> Use:
    try:
        return distgnn.use(name, **options)
    except distgnn.BackendError:
        raise
    except Exception as error:
        text = f"backend {name!r} cannot be opened with {options}: {type(error).__name__}: {error}"
        raise distgnn.BackendError(text) from error


def _run(folder: Path, ranks: int, timeout: float) -> str:
    """Run the tests; return what was printed where processes ended otherwise than by passing."""
    if ranks == 1:
        with redirect_stdout(sys.stderr):  # a root above the folder gives its modules names of their own
            pytest.main(["-q", "--tb=no", "--no-header", "--no-summary", f"--rootdir={folder.parent}", str(folder)])
        return ""
    try:
        # A rank ends in the last of them, so nothing may follow.
        run_on_ranks([folder / "test_it.py", folder / "test_lost.py"], ranks, timeout=timeout)
    except pytest.fail.Exception as failure:
        return str(failure)
    return ""


def _read(folder: Path) -> tuple[int, list[Outcome]]:
    """Put together what the ranks wrote: a test has failed where it failed on one of them, the first in time first."""
    lines: list[dict[str, Any]] = []
    for file in folder.glob("*.jsonl"):
        lines += [{**json.loads(line), "rank": file.stem} for line in file.read_text().splitlines()]
    collected = sum(line["collected"] for line in lines if "collected" in line and line["rank"] == "0")
    ends: dict[str, list[dict[str, Any]]] = {}
    for line in sorted((line for line in lines if "test" in line), key=lambda line: float(line["time"])):
        ends.setdefault(line["test"], []).append(line)
    several = len({line["rank"] for line in lines}) > 1
    return collected, [_outcome(test, of_ranks, several=several) for test, of_ranks in ends.items()]


def _outcome(test: str, ends: list[dict[str, Any]], *, several: bool) -> Outcome:
    failed = [end for end in ends if end["outcome"] == "failed"]
    if not failed:
        return Outcome(test, ends[0]["outcome"], ends[0]["message"])
    told = [f"rank {end['rank']}: {end['message']}" if several else end["message"] for end in failed]
    return Outcome(test, "failed", "\n".join(told))


def capabilities(backend: Backend) -> dict[str, str]:
    """Find out what a backend can do: ask for rows of every dtype, and look for what distgnn names ``Supports...``."""
    device = _device(backend)
    ids = torch.zeros(1, dtype=torch.int64, device=device)
    powers = {name: False for name in distgnn.__all__ if name.startswith("Supports")}
    embeddings, tensors = [], []
    # What it can't do, it may say here in any way; the tests are stricter.
    for dtype in (*FLOATS, *_INTEGERS):
        text = str(dtype).removeprefix("torch.")
        with suppress(Exception), closing(backend.open_embedding(EmbeddingSpec("asked", 1, 8, dtype))) as table:
            if table.lookup(ids).dtype == dtype:
                embeddings.append(text)
            for name in powers:
                powers[name] |= any(isinstance(each, getattr(distgnn, name)) for each in (backend, table))
        with suppress(Exception), closing(backend.open_tensor(TensorSpec("asked", (1, 8), dtype))) as tensor:
            tensor.write(ids, torch.ones(1, 8, dtype=dtype, device=device))
            if bool((tensor.read(ids) == 1).all()):
                tensors.append(text)
    return {
        "backend": f"`{backend.name}`",
        "device": str(device),
        "embeddings": ", ".join(embeddings),
        "tensors": ", ".join(tensors),
        **{_words(name): "yes" if has else "no" for name, has in powers.items()},
    }


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("Supports")).lower()


def _device(backend: Backend) -> torch.device:
    """Find where its stores are, by asking for a row with ids from there."""
    asked = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    with suppress(Exception), closing(backend.open_embedding(EmbeddingSpec("asked", 1, 8))) as table:
        for device in asked:
            with suppress(distgnn.IdsError):
                return table.lookup(torch.zeros(1, dtype=torch.int64, device=device)).device
    return asked[0]
