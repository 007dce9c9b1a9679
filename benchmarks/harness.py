"""What the benchmarks share: interleaved rounds, memory, tables, pictures, and what is asked and reached.

Cases of a group take turns, round after round, so that what else the machine does falls on all of them. A case's time
is the median over rounds, after one round that is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import statistics
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from distgnn.graphbolt import import_dgl

mpl.use("Agg")
from matplotlib import pyplot as plt

Step = Callable[[], object]
Result = dict[str, float]
console = Console()


def options(description: str | None, *, rounds: int, threads: int = 2) -> argparse.ArgumentParser:
    """Return what every benchmark can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=min(threads, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the options, and pin this process to as many CPUs as it has threads."""
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    return arguments


def machine() -> dict[str, Any]:
    """Say on what the numbers were measured. The allocator matters: others make PyG up to twice as fast."""
    settings = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("MALLOC_", "THP_", "OMP_"))}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "allocator": os.environ.get("LD_PRELOAD", "").strip() or " ".join(platform.libc_ver()).strip() or "unknown",
        "settings": settings,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "torch-geometric")},
        "dgl": None if load_dgl() is None else metadata.version("dgl"),
    }


def load_dgl() -> Any:
    """Import DGL, or return None."""
    try:
        import_dgl()
        import dgl.nn  # noqa: PLC0415
    except ImportError as error:
        console.print(f"DGL is left out: {error}")
        return None
    return dgl


def in_turn(step: Callable[[Tensor], object], batches: list[Tensor], count: int) -> Step:
    """Return what takes so many steps, each time on the batches that come next."""
    following = itertools.cycle(batches)
    return lambda: [step(next(following)) for _ in range(count)]


def measure(
    cases: dict[str, Step], rounds: int, before: Step = lambda: None, *, only: Sequence[str] | None = None
) -> dict[str, Result]:
    """Let the cases take turns, then see what memory each takes.

    Args:
        cases: What is compared; the first is what others are compared with.
        rounds: How many rounds count, at least 2.
        before: Is done before each step, and not counted.
        only: Names of the cases to measure, if not all.

    Returns:
        For each case the median wall and CPU time of its steps in ms, the quartiles of the wall time, and the memory in
        MB that was in use at its peak beyond what was in use before it.
    """
    cases = {name: step for name, step in cases.items() if only is None or name in only}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, step in cases.items():
            before()
            begin, begin_cpu = time.perf_counter(), time.process_time()
            step()
            wall[name].append((time.perf_counter() - begin) * 1e3)
            cpu[name].append((time.process_time() - begin_cpu) * 1e3)
    results = {}
    for name, step in cases.items():
        before()
        low, median, high = statistics.quantiles(wall[name][1:], n=4, method="inclusive")
        results[name] = {
            "wall_ms": median,
            "quartile_1_ms": low,
            "quartile_3_ms": high,
            "fastest_ms": min(wall[name][1:]),
            "cpu_ms": statistics.median(cpu[name][1:]),
            "peak_mb": peak_mb(step),
        }
    return results


def peak_mb(step: Step) -> float:
    """Run a step, and return by how much its peak exceeds what was in use before. Linux only; elsewhere NaN."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give free memory back first, or it would be used unseen
        Path("/proc/self/clear_refs").write_text("5")  # start the record of the peak anew
        before = _status("VmRSS")
        step()
        return (_status("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return float("nan")


def _status(field: str) -> int:
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)
    )


def line(
    what: str,
    against: str,
    asked: float,
    groups: Mapping[str, Mapping[str, Result]],
    own: str,
    peer: str,
    extra_mb: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return a line of what is asked, and what was reached; none where a case was not measured.

    Args:
        what: What is measured.
        against: What it is compared with.
        asked: The peer's time over our own that is asked at least; of memory the opposite, at most.
        groups: The groups that the line is about, each by its name in the line.
        own: Our case.
        peer: The other.
        extra_mb: Compare memory: what each case returns in each group, which is no part of what it needs.
    """
    measured = {name: group for name, group in groups.items() if own in group and peer in group}
    if not measured:
        return []
    reached = {name: group[peer]["wall_ms"] / group[own]["wall_ms"] for name, group in measured.items()}
    if extra_mb is not None:
        reached = {
            name: (group[own]["peak_mb"] - extra_mb[name]) / (group[peer]["peak_mb"] - extra_mb[name])
            for name, group in measured.items()
        }
    return [{"what": what, "against": against, "asked": asked, "at_most": extra_mb is not None, "reached": reached}]


def report(
    name: str,
    groups: dict[str, dict[str, Result]],
    title: str,
    out: Path,
    asked: Sequence[dict[str, Any]] = (),
    **more: object,
) -> None:
    """Print a table a group, and write ``name.json`` and ``name.png``; others are compared to the first case.

    Args:
        name: Name of the files.
        groups: What was measured.
        title: Title of the picture.
        out: Folder of the files.
        asked: What :func:`line` returned; ``distgnn bench`` shows it.
        more: Goes into the JSON as well.
    """
    path = out / name
    for group, results in groups.items():
        base = next(iter(results.values()))
        table = Table("case", "ms", "quartiles", "CPU ms", "peak MB", "times faster", title=group)
        for case, result in results.items():
            table.add_row(
                case,
                f"{result['wall_ms']:.1f}",
                f"{result['quartile_1_ms']:.1f} - {result['quartile_3_ms']:.1f}",
                f"{result['cpu_ms']:.1f}",
                f"{result['peak_mb']:.0f}",
                f"{base['wall_ms'] / result['wall_ms']:.2f}",
            )
        console.print(table)
    content = {"machine": machine(), "asked": list(asked), "groups": groups, **more}
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    draw(groups, title, path.with_suffix(".png"))


def draw(groups: dict[str, dict[str, Result]], title: str, path: Path) -> None:
    """Draw how many times faster than the first each case of a group is."""
    figure, grid = plt.subplots(
        -(-len(groups) // 2), 2, figsize=(8.5, 1.4 * len(groups) + 0.6), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(groups) :]:
        axes.axis("off")
    for axes, (group, results) in zip(grid.flat, groups.items(), strict=False):
        base = next(iter(results.values()))
        ratios = [base["wall_ms"] / result["wall_ms"] for result in results.values()]
        colors = ["tab:orange" if case.startswith("distgnn") else "tab:blue" for case in results]
        positions = np.arange(len(ratios))
        axes.bar_label(axes.barh(positions, ratios, color=colors), fmt=" %.1f", fontsize=8)
        axes.set_yticks(positions, list(results), fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        first = next(iter(results))
        axes.set_title(
            f"{textwrap.fill(group, 44)}\n({first}: {base['wall_ms']:,.{1 if base['wall_ms'] < 100 else 0}f} ms)",
            fontsize=8,
        )
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
