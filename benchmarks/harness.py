"""What the benchmarks of layers share: graphs, interleaved rounds, memory, tables and pictures.

Cases of a group take turns, round after round, so that what else the machine does falls on all of them. A case's time
is the median over rounds, after one round that is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
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
NODES = 100_000


def parse(description: str | None) -> argparse.Namespace:
    """Read the options, and pin this process to as many CPUs as it has threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
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


def random_graph(nodes: int, edges: int) -> Tensor:
    """Draw both ends of every edge uniformly."""
    return torch.randint(nodes, (2, edges))


def power_law_graph(nodes: int, edges: int) -> Tensor:
    """Draw ends by the inverse square root of their rank, so that the degrees have a tail of exponent 3."""
    ranks = (torch.rand(2, edges, dtype=torch.float64).square() * nodes).long()
    return torch.stack([torch.randperm(nodes)[end] for end in ranks])


GRAPHS: dict[str, Callable[[int, int], Tensor]] = {"random": random_graph, "power law": power_law_graph}


def measure(cases: dict[str, Step], rounds: int, before: Step = lambda: None) -> dict[str, Result]:
    """Let the cases take turns, then see what memory each takes.

    Args:
        cases: What to measure.
        rounds: How often, after one round that is not counted.
        before: Is done before each step, and not counted.

    Returns:
        For each case the median wall and CPU time of its steps in ms, the quartiles of the wall time, and the memory in
        MB that was in use at its peak beyond what was in use before it.
    """
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
        low, median, high = statistics.quantiles(wall[name][1:], n=4)
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


def sized(name: str, arguments: argparse.Namespace) -> str:
    """Make the number of nodes part of a name where it is not the default."""
    return name if arguments.nodes == NODES else f"{name}_{arguments.nodes}"


def report(name: str, groups: dict[str, dict[str, Result]], title: str, out: Path, **more: object) -> None:
    """Print a table a group, and write ``name.json`` and ``name.png``; others are compared to the first case.

    Args:
        name: Of the files.
        groups: What was measured.
        title: Of the picture.
        out: Folder of the files.
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
    content = {"machine": machine(), "groups": groups, **more}
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    figure, grid = plt.subplots(
        -(-len(groups) // 2), 2, figsize=(11, 1.6 * len(groups) + 0.6), layout="constrained", squeeze=False
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
        axes.set_title(group, fontsize=9)
    figure.suptitle(title)
    figure.savefig(path.with_suffix(".png"), dpi=130)
