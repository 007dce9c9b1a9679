"""Runs the conformance kit, inside a test, on a backend that may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import distgnn

    Failures = Callable[..., set[str]]


class Run:
    """A pytest plugin that gives the suite its backends and collects which tests passed and failed."""

    def __init__(self, make: Callable[[], distgnn.Backend]) -> None:
        self.make = make
        self.passed: set[str] = set()
        self.failed: set[str] = set()

    @pytest.fixture
    def made_backend(self) -> Iterator[distgnn.Backend]:
        backend = self.make()
        yield backend
        backend.close()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        if report.failed:
            self.failed.add(name)
        elif report.when == "call" and report.passed:
            self.passed.add(name)


@pytest.fixture
def failures(tmp_path: Path) -> Failures:
    """Give a function that runs a suite, or one test of it, on backends made by a function, and tells what failed.

    The tests run in this process by pytest.main. Pytester would take modules out of sys.modules afterwards, and torch
    cannot be imported twice.
    """

    def run(suite: str, make: Callable[[], distgnn.Backend], *, test: str = "") -> set[str]:
        file = tmp_path / f"test_{suite}.py"
        file.write_text(f"""
import pytest
from distgnn.testing import {suite}

class TestIt({suite}):
    @pytest.fixture
    def backend(self, made_backend):
        return made_backend
""")
        outcome = Run(make)
        # unraisableexception collects garbage ten times a run, longer than all else takes; the run outside has it.
        plugins = ("cacheprovider", "faulthandler", "timeout", "unraisableexception", "xdist")
        off = [f"-pno:{plugin}" for plugin in plugins]
        selected = f"{file}::TestIt::{test}" if test else str(file)
        options = ["-Werror", "-q", "--tb=line", "--capture=no", "--import-mode=importlib", f"--rootdir={tmp_path}"]
        pytest.main([*options, *off, selected], plugins=[outcome])
        assert outcome.passed | outcome.failed, "no test ran"
        return outcome.failed

    return run
