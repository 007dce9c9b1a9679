"""The page of a run: one HTML file that needs no other."""

from __future__ import annotations

import platform
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch_geometric

from distgnn._version import __version__
from distgnn.report import figures as pictures
from distgnn.train.config import TrainConfig
from distgnn.train.timeline import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from distgnn.train.run import Result


def make_page(result: Result, title: str, facts: Mapping[str, str], config: TrainConfig) -> str:
    """Return the page.

    Args:
        result: Of a run with ``report``.
        title: What was trained.
        facts: What the run came to, by name.
        config: The run's options.
    """
    timed = [epoch for trial in result.history for epoch in trial if epoch.spent is not None]
    last = result.history[-1][-1]
    defaults = TrainConfig().as_dict()
    options = {name: value for name, value in config.as_dict().items() if value is not None}
    machine = {
        "distgnn": __version__,
        "torch": str(torch.__version__),
        "torch_geometric": torch_geometric.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "ranks": str(len(result.peak_memory_mb)),
        "threads a rank": str(result.threads),
    }
    spent = {kind: np.sum([(epoch.spent or {})[kind] for epoch in timed], axis=0) for kind in KINDS} if timed else {}
    drawn = bool(spent) and bool(result.timeline)
    return Template(files("distgnn.report").joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        score=result.score,
        measure=escape(f"test {result.measure}"),
        facts=_rows((escape(name), escape(text)) for name, text in facts.items()),
        curves=pictures.as_svg(pictures.curves(result)),
        time=pictures.as_svg(pictures.time_by_rank(spent)) if drawn else "<p>No epoch was timed.</p>",
        seconds=_seconds(spent) if drawn else "",
        waiting=pictures.as_svg(pictures.waiting_by_epoch(result.history[-1])) if _waits(result) else "",
        epoch=f"{last.epoch}" + (f" of trial {last.trial}" if last.trial else ""),
        timeline=pictures.as_svg(pictures.timeline(result.timeline)) if drawn else "<p>No epoch was timed.</p>",
        options=_rows(
            (f"<b>{name}</b>" if value != defaults[name] else name, escape(str(value)))
            for name, value in sorted(options.items(), key=lambda item: item[1] == defaults[item[0]])
        ),
        machine=_rows((escape(name), escape(text)) for name, text in machine.items()),
    )


def _waits(result: Result) -> bool:
    return len(result.timeline) > 1 and all(epoch.spent for epoch in result.history[-1])


def _seconds(spent: Mapping[str, NDArray[np.float64]]) -> str:
    total = np.sum(list(spent.values()), axis=0)
    kinds = [kind for kind in KINDS if spent[kind].any()]
    head = "".join(f"<th>{kind}</th>" for kind in kinds)
    body = "".join(
        f"<tr><th>rank {rank}</th>"
        + "".join(f"<td>{spent[kind][rank]:.2f} s <i>{spent[kind][rank] / total[rank]:.0%}</i></td>" for kind in kinds)
        + "</tr>"
        for rank in range(len(total))
    )
    return f'<div class="wide"><table class="numbers"><tr><th></th>{head}</tr>{body}</table></div>'


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in pairs)
