from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "lightning_example.py"


def test_a_gin_over_stores_trains_with_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason='PyTorch Lightning is not installed: pip install "distgnn[lightning]"')
    command = [sys.executable, "-W", "ignore", str(EXAMPLE), "--epochs", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (accuracy,) = re.findall(r"accuracy\W+([\d.]+)", done.stdout)
    assert float(accuracy) > 0.5, "chance is 0.25"
