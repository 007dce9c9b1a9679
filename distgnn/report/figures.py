"""Figures of a run: its curves, and its ranks' time."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from distgnn.train.timeline import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from distgnn.train.epoch import Epoch
    from distgnn.train.run import Result

COLORS = dict(  # Okabe and Ito's, which colorblind people tell apart
    zip(KINDS, ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#bbbbbb"), strict=True)
)
_COUNTED = {"bytes_a_step": "bytes sent a step", "cache_hits": "rows found in the cache"}
_MARKED = 30  # a curve of fewer points shows them


def draw_curve(result: Result, title: str) -> bytes:
    """Draw loss, scores and speed by epoch, mean and standard deviation over trials, as a PNG file has it.

    Epochs that were not evaluated have no point; few ones that were are marked.
    """
    figure = curves(result)
    figure.suptitle(f"{title}: test {result.measure} {result.score}")
    with BytesIO() as file:
        figure.savefig(file, dpi=150)
        return file.getvalue()


def curves(result: Result) -> Figure:
    """Draw loss, scores and speed by epoch; the bytes of a step and cache hits too, where there are some."""
    epochs = [epoch for trial in result.history for epoch in trial]
    counted = [name for name in _COUNTED if any(getattr(epoch, name) for epoch in epochs)]
    figure = Figure(figsize=(13 + 3 * len(counted), 3.8), layout="constrained")
    axes = figure.subplots(1, 3 + len(counted))
    _plot(axes[0], result.history, ("loss",))
    axes[0].set(ylabel=f"training loss ({result.loss})")
    _plot(axes[1], result.history, ("train", "val", "test"))
    axes[1].set(ylabel=result.measure, ylim=result.task.metric.limits)
    if len(set(result.epochs)) == 1:
        axes[1].axvline(result.epochs[0], color="gray", linestyle=":", label="chosen epoch")
    axes[1].legend()
    _plot(axes[2], result.history, ("rows_per_second",))
    axes[2].set(ylabel="rows a second in training")
    for one, name in zip(axes[3:], counted, strict=True):
        _plot(one, result.history, (name,))
        one.set(ylabel=_COUNTED[name])
    for one in (axes[0], *axes[2:]):
        one.set_ylim(0, 1.05 * one.get_ylim()[1])  # whole markers
    for one in axes[2:]:
        is_share = one.get_ylabel() == _COUNTED["cache_hits"]
        one.yaxis.set_major_formatter(PercentFormatter(1) if is_share else EngFormatter(sep=""))
    return figure


def time_by_rank(spent: dict[str, NDArray[np.float64]]) -> Figure:
    """Draw a bar for each rank, of what its time went to.

    Args:
        spent: Seconds ``[W]`` of each rank, by kind.
    """
    kinds = [kind for kind in KINDS if spent[kind].any()]
    ranks = len(spent["compute"])
    figure = Figure(figsize=(13, 1.4 + 0.45 * ranks), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(ranks)
    for kind in kinds:
        axes.barh(range(ranks), spent[kind], left=left, color=COLORS[kind], label=kind, height=0.7)
        left += spent[kind]
    _by_rank(axes, ranks)
    axes.set(xlabel="seconds", xlim=(0, left.max()))
    axes.legend(ncols=len(kinds), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def waiting_by_epoch(epochs: Sequence[Epoch]) -> Figure:
    """Draw which share of each epoch every rank waited for others."""
    figure = Figure(figsize=(13, 3), layout="constrained")
    axes = figure.subplots()
    spent = [{kind: np.array(seconds) for kind, seconds in (epoch.spent or {}).items()} for epoch in epochs]
    shares = np.array([one["wait"] / sum(one.values()) for one in spent])
    for rank, share in enumerate(shares.T):
        marker = "." if len(shares) < _MARKED else ""
        axes.plot([epoch.epoch for epoch in epochs], 100 * share, label=f"rank {rank}", marker=marker)
    axes.set(xlabel="epoch", ylabel="waiting, % of the time", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(ncols=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def timeline(by_rank: Sequence[NDArray[np.float64]]) -> Figure:
    """Draw what each rank did, from left to right; see :class:`~distgnn.train.timeline.Timeline`."""
    figure = Figure(figsize=(13, 1.4 + 0.6 * len(by_rank)), layout="constrained")
    axes = figure.subplots()
    for number, kind in enumerate(KINDS):
        label: str | None = kind
        for rank, segments in enumerate(by_rank):
            own = segments[segments[:, 0] == number]
            if len(own):
                spans = np.column_stack([own[:, 1], own[:, 2] - own[:, 1]])
                axes.broken_barh(spans.tolist(), (rank - 0.4, 0.8), color=COLORS[kind], label=label, rasterized=True)
                label = None
    _by_rank(axes, len(by_rank))
    axes.set(xlabel="seconds since the epoch began", xlim=(0, max(segments[-1, 2] for segments in by_rank)))
    axes.legend(ncols=len(KINDS), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG element."""
    with BytesIO() as file:
        figure.savefig(file, format="svg", dpi=200, metadata={"Date": None})
        text = file.getvalue().decode()
    return text[text.index("<svg") :]


def _by_rank(axes: Axes, ranks: int) -> None:
    axes.set(yticks=range(ranks), yticklabels=[f"rank {rank}" for rank in range(ranks)], ylim=(ranks - 0.4, -0.6))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)


def _plot(axes: Axes, history: Sequence[Sequence[Epoch]], names: Sequence[str]) -> None:
    for name in names:
        trials = [[epoch for epoch in trial if getattr(epoch, name) is not None] for trial in history]
        if not trials[0]:
            continue
        epochs = [epoch.epoch for epoch in trials[0]]
        values = [[getattr(epoch, name) for epoch in trial] for trial in trials]
        mean, std = np.mean(values, axis=0), np.std(values, axis=0)
        (line,) = axes.plot(epochs, mean, label=name, marker="." if len(epochs) < _MARKED else "")
        if len(values) > 1:
            axes.fill_between(epochs, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
