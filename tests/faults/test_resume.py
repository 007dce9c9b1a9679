"""Jobs that are killed come back by themselves from their last checkpoint, and end as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import psutil
import pytest
from safetensors.torch import load_file

from tests.jobs import slowness

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

EPOCHS, EVERY = 80, 5
OPTIONS = (
    *("--dataset", "CustomLargeGraph", "--num-nodes", "300", "--num-edges", "3000", "--hidden-channels", "8"),
    *("--use-dist-embedding", "--embedding-dim", "8", "--epochs", str(EPOCHS), "--checkpoint-every", str(EVERY)),
    *("--keep", "2", "--name", "mine"),
)
BACKENDS = [
    "pyg",
    pytest.param(
        "dgl",
        marks=[
            pytest.mark.slow_faults,
            pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here"),
        ],
    ),
]


class Run:
    """``distgnn train``, on two ranks under torchrun, or alone.

    Args:
        folder: Its working folder.
        options: Of the command.
        ranks: How many; 1 starts it without torchrun.
        restarts: How often torchrun may start it again.
    """

    def __init__(self, folder: Path, *options: str, ranks: int = 2, restarts: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        self.run = folder / "runs" / "mine"
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
        launcher = ["-m", *launcher, "--monitor-interval=0.1"] if ranks > 1 else []
        self._output = (folder / "output").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "distgnn", "train", *OPTIONS, *options],
            cwd=folder,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "LOGLEVEL": "INFO"},
            start_new_session=True,
        )

    def output(self) -> str:
        self._output.flush()
        self._output.seek(0)
        return self._output.read()

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 60 * slowness()
        while not any(int(path.name[5:]) >= step for path in self.run.glob("checkpoints/step-*")):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.01)

    def processes(self, *, server: bool = False) -> list[psutil.Process]:
        """List the ranks, or the servers that they have started."""
        ranks = psutil.Process(self.process.pid).children()
        return [child for rank in ranks for child in rank.children()] if server else ranks

    def code(self) -> int:
        try:
            return self.process.wait(90 * slowness())
        except subprocess.TimeoutExpired:
            pytest.fail(f"the job does not end:\n{self.output()}")

    def result(self) -> tuple[list[dict[str, object]], dict[str, Tensor]]:
        """Return the metrics but for times, and all tensors of the last checkpoint."""
        assert self.code() == 0, self.output()
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        metrics = [{name: line[name] for name in line if name not in {"rows_per_second", "seconds"}} for line in lines]
        folder = self.run / "checkpoints" / f"step-{EPOCHS}"
        files = sorted(folder.glob("*.safetensors"))
        return metrics, {f"{path.name}/{name}": rows for path in files for name, rows in load_file(path).items()}

    def end(self) -> None:
        for process in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
            process.kill()
        self.process.wait()
        self._output.close()


@contextmanager
def started(folder: Path, *options: str, ranks: int = 2, restarts: int = 0) -> Iterator[Run]:
    run = Run(folder, *options, ranks=ranks, restarts=restarts)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.end()
        run._output.close()


def assert_same(runs: Sequence[Run]) -> None:
    (metrics, tensors), (expected_metrics, expected) = (run.result() for run in runs)
    assert metrics == expected_metrics
    assert len(metrics) == EPOCHS
    assert tensors.keys() == expected.keys()
    assert sum("exp_avg" in name for name in tensors) > 4
    for name, rows in expected.items():
        # The state of Python's generator differs from process to process, and nothing here uses it.
        assert rows.equal(tensors[name]) or "random/python" in name or "random/numpy" in name, name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_job_whose_ranks_and_servers_are_killed_ends_as_an_undisturbed_one(backend: str, tmp_path: Path) -> None:
    options = ("--backend", backend)
    with started(tmp_path / "calm", *options) as calm, started(tmp_path / "torn", *options, restarts=2) as torn:
        for step, which, server in ((2 * EVERY, 1, False), (7 * EVERY, 0, backend == "dgl")):
            torn.wait_for_step(step)
            victim = torn.processes(server=server)[which]
            victim.send_signal(signal.SIGKILL)
            psutil.wait_procs([victim], timeout=10)
        assert_same((torn, calm))
        assert "2/2 attempts left; will restart" in torn.output()
        assert "1/2 attempts left; will restart" in torn.output()
        best = json.loads((torn.run / "result.json").read_text())["epochs"][0]
        left = {path.name for path in torn.run.glob("checkpoints/*")} - {f"step-{best}"}
        assert left == {f"step-{step}" for step in (EPOCHS, EPOCHS - EVERY)} - {f"step-{best}"}


@pytest.mark.timeout(600)
def test_a_job_that_is_asked_to_end_saves_and_goes_on_later_on_another_number_of_ranks(tmp_path: Path) -> None:
    with started(tmp_path / "one", "--backend", "pyg") as first:
        first.wait_for_step(EVERY)
        for rank in first.processes():
            rank.terminate()
        assert first.code() == 1
        assert "TrainingStoppedError" in first.output() or "stopped by SIGTERM after step" in first.output()
        saved = max(int(path.name[5:]) for path in first.run.glob("checkpoints/step-*"))
        assert f"with all that was trained in runs/mine/checkpoints/step-{saved}; go on with" in first.output()
    with started(tmp_path / "one", "--backend", "memory", "--resume", "latest", ranks=1) as second:
        metrics, _ = second.result()
        assert [line["epoch"] for line in metrics] == list(range(1, EPOCHS + 1))
