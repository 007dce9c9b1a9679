"""Progress as bars for terminals, lines for log files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task, TaskID

_SECONDS = 30.0  # between two lines


class TellingProgress(Progress):
    """Bars beside which tasks say something of themselves, in a field ``told``.

    Where the console is no terminal, the bars are printed once, at the end, and until then a line at most every 30
    seconds. No control character is written there.

    Args:
        console: Where it is shown.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),  # the column that is narrower on a narrow terminal, where others would break into lines
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _Told(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
        )
        self._last_line = time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        """Change a task, as :meth:`rich.progress.Progress.update`."""
        super().update(task_id, **fields)
        now = time.monotonic()
        if not self.console.is_terminal and now >= self._last_line + _SECONDS:
            self._last_line = now
            task = self._tasks[task_id]
            of = "" if task.total is None else f" of {task.total:,.0f}"
            self.console.print(f"{task.description}: {task.completed:,.0f}{of}  {task.fields.get('told', '')}".rstrip())


class _Told(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("told", ""))
