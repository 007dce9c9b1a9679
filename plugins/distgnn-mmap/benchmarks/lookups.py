"""Cold and hot lookups beside what the disk and memory can do.

Cold: batches of rows on random pages, each page once, of a table of which nothing is in memory, beside random reads of
4 KiB pages of the same file past the page cache (O_DIRECT), by as many threads as read most. Hot: the same batches
again, beside the memory backend's. Writes lookups.json into --out.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import distgnn
from distgnn.optim import SGD

PAGE = 4096


def disk_pages_per_second(path: Path, count: int, threads: int) -> float:
    """Read random pages past the page cache, each thread one after another."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    pages = np.random.default_rng(threads).choice(path.stat().st_size // PAGE, count, replace=False)

    def read(mine: np.ndarray) -> None:
        buffer = mmap.mmap(-1, PAGE)  # O_DIRECT wants an address at a page's begin
        for page in mine.tolist():
            os.preadv(descriptor, [buffer], page * PAGE)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, np.array_split(pages, threads)))
    seconds = time.perf_counter() - begin
    os.close(descriptor)
    return count / seconds


def rows_per_second(store: distgnn.EmbeddingStore, batches: list[torch.Tensor]) -> float:
    """Look batches up, one after another."""
    begin = time.perf_counter()
    for ids in batches:
        store.lookup(ids)
    return sum(ids.numel() for ids in batches) / (time.perf_counter() - begin)


def main() -> None:
    """Measure in turns, and show medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--columns", type=int, default=64, help="of float32")
    parser.add_argument("--batch", type=int, default=4_096)
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, required=True, help="on the disk to be measured; new or of an earlier run"
    )
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    spec = distgnn.EmbeddingSpec(f"rows{arguments.rows}x{arguments.columns}", arguments.rows, arguments.columns)
    path = arguments.folder / "tables" / spec.name / "rows"
    if not path.exists():
        write(arguments.folder, spec)
    memory = distgnn.use("memory").backend.open_embedding(spec)
    found: dict[str, list[float]] = {"disk": [], "cold": [], "hot": [], "memory": []}
    for number in range(arguments.rounds):
        generator = torch.Generator().manual_seed(number)
        # No two rows of a page, or those that come later would find it in memory.
        pages = torch.randperm(path.stat().st_size // PAGE, generator=generator)[: arguments.batches * arguments.batch]
        ids = (pages * (spec.num_embeddings / (path.stat().st_size / PAGE))).long().view(-1, arguments.batch)
        batches = list(ids)
        drop(path)
        count = ids.numel() // 4
        found["disk"].append(max(disk_pages_per_second(path, count, threads) for threads in (8, 32, 64)))
        drop(path)
        with distgnn.use("mmap", folder=arguments.folder) as backend:
            store = backend.open_embedding(spec)
            found["cold"].append(rows_per_second(store, batches))
            for name, each in (("hot", store), ("memory", memory)):
                rows_per_second(each, batches)
                found[name].append(statistics.median(rows_per_second(each, batches) for _ in range(3)))
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    result = {
        **{f"{name}_per_second": round(rate) for name, rate in medians.items()},
        "disk_over_cold": medians["disk"] / medians["cold"],
        "memory_over_hot": medians["memory"] / medians["hot"],
        "rounds": found,
        "table": str(spec),
        "batch": arguments.batch,
        "threads": torch.get_num_threads(),
    }
    (arguments.out / "lookups.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        if name != "rounds":
            print(f"{name:20} {value:,.2f}" if isinstance(value, float) else f"{name:20} {value}")


def write(folder: Path, spec: distgnn.EmbeddingSpec) -> None:
    """Write every row once, so that none is computed."""
    with distgnn.use("mmap", folder=folder) as backend:
        store = backend.open_embedding(spec)
        for ids in torch.split(torch.arange(spec.num_embeddings), 1 << 18):
            store.apply_gradients(ids, torch.zeros(ids.numel(), spec.embedding_dim), SGD())


def drop(path: Path) -> None:
    """Take a file, which nobody has mapped, out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
