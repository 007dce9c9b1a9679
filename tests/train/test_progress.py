"""Progress on narrow terminals; the width is the terminal's own."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from distgnn.train.progress import TellingProgress


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_task_takes_one_line_of_the_terminal(width: int) -> None:
    console = Console(file=(shown := StringIO()), force_terminal=True, width=width, color_system=None)
    progress = TellingProgress(console)
    task = progress.add_task("training", total=100_000)
    progress.update(task, completed=90_000, told="loss 0.454  test 83.3%  1,585 rows/s")
    console.print(progress.get_renderable())
    (line,) = shown.getvalue().splitlines()
    assert len(line) <= width
    assert "loss 0.454" in line
    assert width < 80 or "90000/100000 loss 0.454  test 83.3%  1,585 rows/s" in line
