"""A process that is killed at any moment of a save leaves whole checkpoints, and only such."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

from distgnn.checkpoint import latest_checkpoint
from tests.faults.saving import COLUMNS, ROWS, saves

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs import StartJob

KILLS = 5


def test_every_checkpoint_that_is_there_is_whole_and_the_last_is_never_lost(
    start_job: StartJob, tmp_path: Path
) -> None:
    moments, last, drafts = random.Random(0), 0, 0
    for _ in range(KILLS):
        job = start_job("saving.py", str(tmp_path), str(last + 1), world_size=1)
        job.wait_for("ready")
        # It saves, and not for the first time.
        while not any(int(path.stem.partition("-")[2]) > last + 1 for path in tmp_path.glob(".step-*.draft")):
            job.wait_for("ready")
        time.sleep(moments.uniform(0.0, 0.02))
        job.send(0, signal.SIGKILL)
        job.codes(timeout=10)
        drafts += len(list(tmp_path.glob(".step-*.draft")))
        steps = sorted(int(path.name[5:]) for path in tmp_path.glob("step-*"))
        for step in steps:
            checkpoint, model, table = saves()
            checkpoint.load(tmp_path / f"step-{step}")
            rows = table.export_rows(0, ROWS)["rows"]
            assert rows.shape == (ROWS, COLUMNS)
            assert (rows == step).all()
            assert float(model.get_parameter("weight").detach()) == step
        assert not steps or steps[-1] >= last, "the last checkpoint is gone"
        assert steps or last == 0
        last = max([last, *steps])
    assert last > 0, "no save came to its end"
    assert drafts > 0, "no kill was within a save"
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.name == f"step-{last}"
