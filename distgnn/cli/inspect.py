"""``distgnn inspect``: what is in a checkpoint or a partition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distgnn.cli.facts import show_facts
from distgnn.cli.partition import cut_facts, show_parts
from distgnn.errors import DataFormatError, DatasetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from distgnn.checkpoint.summary import CheckpointSummary
    from distgnn.graph.partition.summary import PartitionSummary

    Summary = CheckpointSummary | PartitionSummary

_SHOWN = 4  # ranks


def inspect(
    path: str = typer.Argument(
        help="A checkpoint; a run's folder, for its last one; a partition; or DGL's partition or its .json file.",
        metavar="PATH",
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what is in a checkpoint or a partition, without loading it.

    Manifests and the headers of files are read, no rows. The exit code is 1 where a file is missing or damaged.

    Example: distgnn inspect runs/mine
    """
    found = _summarize(Path(path))
    damaged = {name: file.problem for name, file in found.files.items() if file.problem}
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _show(found, damaged)
    if damaged:
        raise typer.Exit(1)


def _summarize(path: Path) -> Summary:
    from distgnn.checkpoint.folder import find_checkpoint  # noqa: PLC0415
    from distgnn.checkpoint.summary import summarize_checkpoint  # noqa: PLC0415
    from distgnn.graph.partition import summary as partition_summary  # noqa: PLC0415
    from distgnn.graph.partition import writer as partition_writer  # noqa: PLC0415  # --help needs no heavy imports

    if not path.exists():
        raise DatasetNotFoundError(f"{path} is not there; give the folder of a checkpoint, a run or a partition")
    if path.is_dir() and _read(path / partition_writer.MANIFEST).get("format") == partition_writer.FORMAT:
        return partition_summary.summarize_partition(path)
    configs = sorted(path.glob("*.json")) if path.is_dir() else [path]
    for config in configs:
        if "num_parts" in _read(config):
            return partition_summary.summarize_dgl_partition(config)
    checkpoint = find_checkpoint(path)
    if checkpoint is not None:
        return summarize_checkpoint(checkpoint)
    there = ", ".join(sorted(one.name for one in path.iterdir())[:8]) if path.is_dir() else ""
    raise DataFormatError(
        f"{path} is no checkpoint, no run's folder with one, and no partition of distgnn's or DGL's: "
        + (f"there are {there}" if there else "it is empty" if path.is_dir() else "it is some other file")
    )


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _show(found: Summary, damaged: dict[str, str]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.filesize import decimal  # noqa: PLC0415

    from distgnn.graph.partition.summary import PartitionSummary  # noqa: PLC0415

    console = Console(markup=False, highlight=False)
    facts = _show_partition(found, console) if isinstance(found, PartitionSummary) else _show_checkpoint(found, console)
    whole = "each as it was written" if not damaged else f"{len(damaged)} of them missing or damaged"
    facts.append(("files", f"{len(found.files)}, {decimal(found.size)}, {whole}"))
    facts += [("damaged", f"{name}: {problem}") for name, problem in damaged.items()]
    show_facts(console, [("folder", found.folder), ("format", f"{found.format}, by {found.written_by}"), *facts])


def _show_checkpoint(found: CheckpointSummary, console: Console) -> list[tuple[str, str]]:
    from rich.filesize import decimal  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from distgnn.train.config import TrainConfig  # noqa: PLC0415

    table = Table("", "type", "shape", "size")
    facts = [("ranks", f"{len(found.files)} wrote it")]
    for name, store in found.stores.items():
        rows = [f"{last - first:,}" for first, last in store.rows_by_rank]
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        facts.append(("", f"{name}: {', '.join(rows[:_SHOWN])} rows{more}"))
        table.add_row(f"store {name}", store.dtype, _shape(store.shape), decimal(store.size))
        for rule, kept in store.rules.items():
            short = rule.rpartition(".")[2]
            facts.append(("rule", f"{name}: {short}, applied {kept.steps:,} times"))
            for key, width in kept.widths.items():
                shape = (store.shape[0], width)
                table.add_row(f"  {short}'s {key}", "F32", _shape(shape), decimal(4 * shape[0] * width))
    for name, part in found.parts.items():
        table.add_row(name, "", f"{part.tensors:,} tensors", decimal(part.size))
    console.print(table)
    facts.append(("checksums", found.checksums))
    if found.config is not None:
        default = TrainConfig().as_dict()
        given = [f"{name}={value}" for name, value in found.config.items() if value != default.get(name)]
        facts.append(("options", ", ".join(given) or "the defaults"))
    if found.last_epoch is not None:
        last, epochs = found.last_epoch, (found.config or {}).get("epochs")
        facts.append(("trained", f"epoch {last['epoch']} of {epochs}, trial {last['trial']}, loss {last['loss']:.4f}"))
    if found.notes is not None:
        facts.append(("notes", json.dumps(found.notes)))
    return facts


def _show_partition(found: PartitionSummary, console: Console) -> list[tuple[str, str]]:
    from rich.table import Table  # noqa: PLC0415

    from distgnn.graph.partition.report import balance  # noqa: PLC0415

    if found.report is not None:
        show_parts(console, found.report)
        facts = cut_facts(found.report)
    else:
        table = Table("part", "nodes", "in-edges", title=f"{len(found.nodes)} parts by {found.method}")
        for part, sizes in enumerate(zip(found.nodes, found.edges, strict=True)):
            table.add_row(str(part), *(f"{size:,}" for size in sizes))
        console.print(table)
        facts = [
            ("cut, halo", "DGL's metadata do not tell; distgnn.graph.partition_from_dgl finds them"),
            ("balance", f"{balance(found.nodes):.3f} by nodes, {balance(found.edges):.3f} by edges (1 is best)"),
        ]
    facts.append(("graph", f"{sum(found.nodes):,} nodes, {sum(found.edges):,} edges"))
    facts += [("", f"{name}: {count:,}") for name, count in found.types.items()]
    for kind, features in (found.features or {}).items():
        facts += [(f"of {kind}", f"{name}: {_shape(shape)}, {dtype}") for name, (dtype, shape) in features.items()]
    return facts


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in sizes)
