"""What a billion nodes and ten billion edges need, by width, cut and number of machines: what docs/scale.md shows.

Nothing is trained at that size: these are estimates of ``distgnn plan``, which tests compare with small runs. With
``--measure`` the time of a step is estimated too, from a small run on this machine. Writes scale.json and scale.png
into --out, and prints the tables.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from distgnn.plan.estimate import Estimate, estimate, fewest_machines
from distgnn.plan.job import Job, even_part
from distgnn.plan.sample import measure_pace

mpl.use("Agg")
from matplotlib import pyplot as plt

NODES, EDGES, MACHINES, WIDTHS = 10**9, 10**10, (8, 16, 32, 64, 128), (64, 256)
CUTS = {"at random": None, "half a halo node a node": 0.5}
ROOMS = (64, 256, 1024)  # GB


def main() -> None:
    """Estimate, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=float, default=25.0, help="Gbit/s of a machine")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for width in WIDTHS:
        job = Job(NODES, EDGES, width, width)
        pace = measure_pace(job, threads=1) if arguments.measure else None
        for cut, halo in CUTS.items():
            found = [
                estimate(job, even_part(job, one, halo), one, pace=pace, network=arguments.network * 1e9 / 8)
                for one in MACHINES
            ]
            fewest = {f"{room} GB": fewest_machines(job, room * 1e9, halo) for room in ROOMS}
            results[f"{width} columns, parts {cut}"] = {
                "fewest_machines": fewest,
                "pace": pace and {"seconds_a_node": pace.node, "seconds_a_byte": pace.byte},
                "estimates": [one.as_dict() for one in found],
            }
            show(f"{width} columns, parts {cut}", found, fewest, arguments.network)
    path = arguments.out / "scale.json"
    path.write_text(json.dumps({"network_gbits": arguments.network, "cases": results}, indent=1) + "\n")
    draw(results, path.with_suffix(".png"))


def show(title: str, found: list[Estimate], fewest: dict[str, int], network: float) -> None:
    """Print a table of Markdown."""
    timed = bool(found[0].seconds)
    print(f"\n{title}; the fewest machines: {', '.join(f'{count:,} of {room}' for room, count in fewest.items())}\n")
    more = " s a step |" if timed else ""
    print(f"| machines | own nodes | halo nodes | table and state | all | sent a step | on the network |{more}")
    print("|---|---|---|---|---|---|---|" + ("---|" if timed else ""))
    for one in found:
        table = one.memory["rows"] + one.memory["state"]
        cells = [
            f"{one.ranks}",
            f"{one.nodes / 1e6:,.1f} M",
            f"{one.halo / 1e6:,.1f} M",
            *(f"{number / 1e9:,.0f} GB" for number in (table, one.bytes_needed, one.bytes_sent)),
            f"{one.bytes_sent * 8 / (network * 1e9):,.0f} s",
            *([f"{sum(one.seconds.values()):,.0f}"] if timed else []),
        ]
        print(f"| {' | '.join(cells)} |")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the memory of a machine and what it sends."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for (name, case), style in zip(results.items(), ("o-C0", "o--C0", "s-C1", "s--C1"), strict=True):
        estimates = case["estimates"]
        machines = [one["ranks"] for one in estimates]
        for axes, key in ((left, "bytes_needed"), (right, "bytes_sent")):
            axes.loglog(machines, [one[key] / 1e9 for one in estimates], style, label=name)
    for axes, label in ((left, "memory of a machine, GB"), (right, "sent by a machine in a step, GB")):
        axes.set(xlabel="machines", ylabel=label)
        axes.set_xticks(MACHINES, [str(one) for one in MACHINES])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.axhline(256, color="gray", linestyle=":", linewidth=1)
    left.annotate("256 GB", (8, 256), textcoords="offset points", xytext=(0, 3), fontsize=8, color="gray")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle("A billion nodes, ten billion edges, GIN of 3 layers, Adam: estimates")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
