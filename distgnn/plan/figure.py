"""Memory and time by the number of machines, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from distgnn.plan.estimate import Estimate
    from distgnn.plan.job import Job


def draw_estimates(job: Job, estimates: Sequence[Estimate], room: float, path: Path) -> None:
    """Draw what a machine needs, and how long a step takes, in stacked bars.

    Raises:
        ConfigError: The file cannot be written, or is of no known type.
    """
    timed = bool(estimates[0].seconds)
    figure = Figure(figsize=(12 if timed else 7, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False)[0]
    labels = [str(one.ranks) for one in estimates]
    _stack(axes[0], labels, [one.memory for one in estimates], 1e-9)
    if max(one.bytes_needed for one in estimates) > room / 4:  # else the bars would be too small to see
        axes[0].axhline(room / 1e9, color="black", linestyle="--", linewidth=1, label=f"{room / 1e9:g} GB")
    axes[0].set(xlabel="machines", ylabel="memory of a machine, GB")
    if timed:
        _stack(axes[1], labels, [one.seconds for one in estimates], 1)
        axes[1].set(xlabel="machines", ylabel="seconds a step")
    for one in axes:
        one.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, reverse=True)
        one.grid(alpha=0.3, axis="y")
    figure.suptitle(
        f"{job.nodes:,} nodes, {job.edges:,} edges, embeddings of {job.embedding_dim}, {job.num_layers} layers of "
        f"{job.hidden_channels}, {job.rule}",
        fontsize=10,
    )
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the picture {path} cannot be written: {error}") from error


def _stack(axes: Axes, labels: Sequence[str], bars: Sequence[Mapping[str, float]], unit: float) -> None:
    bottom = np.zeros(len(bars))
    for name in bars[0]:
        heights = np.array([bar[name] * unit for bar in bars])
        axes.bar(labels, heights, 0.6, bottom=bottom, label=name)
        bottom += heights
