"""Saving and loading a table, beside what the disk does, and the memory that a reload on more ranks takes.

A table of 64 float32 columns, 1 GB unless --rows says otherwise, in one process. The disk's own speed is that of the
same bytes written in one go, 16 MB at a time, and synced; and read again in the same way. They take turns with our
save and load. Before anything is read its pages are dropped from this system's cache (posix_fadvise); a virtual
machine's host may have them all the same, for both alike.

Then two ranks save the table and three load it, each as on a host of its own (no shared memory): for every rank, the
memory in use at its peak from before the table is opened until it is loaded, and its shard. Writes checkpoint.json and
checkpoint.png into --out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import harness
import torch
from embedding_cases import COLUMNS
from embeddings import free_port
from rich.table import Table

import distgnn
from distgnn import Backend, EmbeddingSpec, EmbeddingStore, SupportsCheckpoint
from distgnn.checkpoint import Checkpoint
from distgnn.optim import SGD
from distgnn.train.session import Session

BLOCK = 16 << 20


def table_of(rows: int, backend: Backend) -> tuple[Checkpoint, EmbeddingStore]:
    """Open the table."""
    store = backend.open_embedding(EmbeddingSpec("table", rows, COLUMNS))
    return Checkpoint(Session(backend), {}, {"table": store}), store


def write_alone(path: Path, content: memoryview) -> None:
    """Write bytes in one go, to the disk."""
    with path.open("wb", buffering=0) as file:
        for first in range(0, len(content), BLOCK):
            file.write(content[first : first + BLOCK])
        os.fsync(file.fileno())


def read_alone(path: Path, place: bytearray) -> None:
    """Read a file in one go."""
    with path.open("rb", buffering=0) as file:
        while file.readinto(place):
            pass


def forget(*paths: Path) -> None:
    """Drop files from the system's cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def speeds(rows: int, rounds: int, folder: Path) -> dict[str, dict[str, harness.Result]]:
    """Measure one process."""
    alone, ours = folder / "alone", folder / "ours"
    with distgnn.use("memory") as backend:
        checkpoint, store = table_of(rows, backend)
        assert isinstance(store, SupportsCheckpoint)
        content = store.export_rows(0, rows)["rows"].view(-1).view(torch.uint8).numpy().data

        def clear() -> None:
            alone.unlink(missing_ok=True)
            shutil.rmtree(ours, ignore_errors=True)

        saving: dict[str, harness.Step] = {
            "written in one go and synced": lambda: write_alone(alone, content),
            "distgnn save": lambda: checkpoint.save(ours),
        }
        saved = harness.measure(saving, rounds, clear)
        clear()
        for step in saving.values():
            step()
        place = bytearray(BLOCK)
        loading: dict[str, harness.Step] = {
            "read in one go": lambda: read_alone(alone, place),
            "distgnn load": lambda: checkpoint.load(ours),
        }
        loaded = harness.measure(loading, rounds, lambda: forget(alone, *ours.iterdir()))
        clear()
    return {f"save, {content.nbytes / 1e6:,.0f} MB": saved, f"load, {content.nbytes / 1e6:,.0f} MB": loaded}


def be_rank(rows: int, work: str, folder: Path) -> None:
    """Save or load as one rank, and print megabytes."""
    torch.set_num_threads(1)
    with distgnn.use("pyg", share_memory=False) as backend:
        small = table_of(999, backend)[1]
        small.apply_gradients(torch.arange(9), torch.ones(9, COLUMNS), SGD())  # what libraries keep is not counted
        small.close()
        found: list[SupportsCheckpoint] = []

        def step() -> None:
            checkpoint, store = table_of(rows, backend)
            assert isinstance(store, SupportsCheckpoint)
            found.append(store)
            getattr(checkpoint, work)(folder)

        peak = harness.peak_mb(step)
        shard = len(found[0].own_rows) * COLUMNS * 4 / 2**20
    sys.stdout.write(json.dumps({"shard_mb": shard, "peak_mb": peak}) + "\n")


def run_ranks(count: int, *arguments: str) -> list[dict[str, float]]:
    """Start ranks, and return what each prints."""
    job = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, *arguments],
            env={**os.environ, **job, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in ranks]
    if any(process.returncode for process in ranks):
        sys.exit("a rank failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> None:
    """Measure, and show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write, on the disk that is measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rank", choices=["save", "load"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        be_rank(arguments.rows, arguments.rank, arguments.folder)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=arguments.folder) as name:
        groups = speeds(arguments.rows, arguments.rounds, Path(name))
        options = ["--rows", str(arguments.rows), "--folder", f"{name}/of two"]
        two, three = run_ranks(2, "--rank", "save", *options), run_ranks(3, "--rank", "load", *options)
    own = {"save": ("distgnn save", "written in one go and synced"), "load": ("distgnn load", "read in one go")}
    asked = [
        line
        for group, results in groups.items()
        for line in harness.line(f"checkpoint, {group}", "the disk alone", 0.7, {"": results}, *own[group[:4]])
    ]
    memory = Table("rank", "its shard, MB", "peak, MB", title="saved by two ranks, loaded by three")
    for rank, megabytes in enumerate(three):
        memory.add_row(str(rank), f"{megabytes['shard_mb']:.0f}", f"{megabytes['peak_mb']:.0f}")
    harness.report(
        "checkpoint",
        groups,
        "Checkpoints: times the disk's own speed",
        arguments.out,
        asked,
        saved_by=two,
        loaded_by=three,
    )
    harness.console.print(memory)


if __name__ == "__main__":
    main()
