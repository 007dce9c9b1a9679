"""A process that is killed at any moment of a save leaves whole checkpoints, and only such."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from distgnn.train.checkpoint import latest_checkpoint
from tests.faults.saving import COLUMNS, ROWS, saves

KILLS = 5


def test_every_checkpoint_that_is_there_is_whole_and_the_last_is_never_lost(tmp_path: Path) -> None:
    moments, last, drafts = random.Random(0), 0, 0
    for _ in range(KILLS):
        command = [sys.executable, str(Path(__file__).with_name("saving.py")), str(tmp_path), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            # It saves, and not for the first time.
            while not any(int(path.stem.partition("-")[2]) > last + 1 for path in tmp_path.glob(".step-*.draft")):
                assert process.poll() is None
            time.sleep(moments.uniform(0.0, 0.02))
            process.kill()
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
