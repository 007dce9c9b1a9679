"""A small run of the planned kind on this machine.

``python -m distgnn.plan.sample CONFIG`` is one rank of it; ``CONFIG`` are options of a run as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import torch

from distgnn.data import generate_graph
from distgnn.errors import PeerLostError
from distgnn.graph import partition_graph
from distgnn.nn import MODELS
from distgnn.plan.estimate import Pace
from distgnn.plan.job import even_part
from distgnn.storage.capabilities import SupportsTraffic
from distgnn.storage.registry import use
from distgnn.train.config import TrainConfig
from distgnn.train.memory import peak_memory
from distgnn.train.session import Session
from distgnn.train.source import Source
from distgnn.train.tasks import TASKS
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distgnn.plan.job import Job

STEPS = 4  # the first finds the sizes of messages
_NODES = 100_000
_SECONDS = 300


class Sample(NamedTuple):
    """The measurements of one rank.

    Args:
        memory: Bytes at its peak, beyond what it had when all was imported.
        sent: Bytes that it sent to others through stores in a step.
        seconds: Of the fastest step but the first.
    """

    memory: int
    sent: int
    seconds: float


def measure_pace(job: Job, threads: int) -> Pace:
    """Train on a graph of the same degree and widths, by one rank and by two that share nothing, and compare.

    Args:
        job: The run that is planned.
        threads: Of each rank.

    Raises:
        PeerLostError: A rank failed.
    """
    nodes = min(job.nodes, _NODES)
    small = replace(job, nodes=nodes, edges=min(round(job.edges / job.nodes * nodes), nodes * (nodes - 1) // 4))
    with tempfile.TemporaryDirectory() as folder:
        (alone,) = run_sample(small, 1, Path(folder), threads=threads)
        two = run_sample(small, 2, Path(folder), threads=threads)
    node = alone.seconds / nodes
    part = even_part(small, 2)
    exchanging = max(one.seconds for one in two) - node * part.nodes
    return Pace(node, max(0.0, exchanging) / max(1, two[0].sent))


def run_sample(
    job: Job,
    ranks: int,
    folder: Path,
    *,
    threads: int = 1,
    method: str = "hash",
    environment: Mapping[str, str] | None = None,
) -> list[Sample]:
    """Train a few steps on a generated graph in parts.

    Args:
        job: Small enough for this machine.
        ranks: How many, each in a process, without shared memory.
        folder: Where the graph is written, ``parts-RANKS``.
        threads: Of each rank.
        method: How the graph is cut, a key of :data:`distgnn.graph.partition.assign.METHODS`.
        environment: What differs in the ranks' environment.

    Raises:
        PeerLostError: A rank failed; the text has its error.
    """
    graph = generate_graph(job.nodes, job.edges, num_classes=job.num_classes)
    if job.num_features:
        graph.x = torch.randn(job.nodes, job.num_features)
    parts = folder / f"parts-{ranks}"
    partition_graph(graph, parts, ranks, method=method)
    del graph
    config = {
        "mode": "full",
        "partition": str(parts),
        "backend": "pyg",
        "use_dist_embedding": True,
        "embedding_dim": job.embedding_dim,
        "hidden_channels": job.hidden_channels,
        "num_layers": job.num_layers,
        "sparse_optimizer": job.rule,
        "dropout": 0.5 if job.dropout else 0.0,
        "epochs": STEPS,
        "eval_every": STEPS + 1,
    }
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    everyone = {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        **(environment or {}),
    }
    command = [sys.executable, "-m", "distgnn.plan.sample", json.dumps(config)]
    processes = [
        subprocess.Popen(  # noqa: S603
            command,
            env={**everyone, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank, (process, (_, error)) in enumerate(zip(processes, outputs, strict=True)):
        if process.returncode:
            last = (error.strip().splitlines() or ["without a word"])[-1]
            raise PeerLostError(f"rank {rank} of the measurement ended with exit code {process.returncode}: {last}")
    return [Sample(*json.loads(output.splitlines()[-1])) for output, _ in outputs]


def main() -> None:
    """Be a rank."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    MODELS["gin"], TASKS["node"].metric.make(2)  # what is imported when it is first used is here before
    before = psutil.Process().memory_info().rss
    config = TrainConfig(**json.loads(sys.argv[1]))
    with use("pyg", share_memory=False) as backend:
        source = Source(config, None, Session(backend))
        trial = Trial(config, source, seed=0)
        assert isinstance(backend, SupportsTraffic)
        seconds, sent, last = [], [], time.perf_counter()
        for _ in trial.train():
            now = time.perf_counter()
            seconds.append(now - last)
            sent.append(backend.bytes_sent)
            last = now
        trial.close()
        source.close()
    sys.stdout.write(json.dumps([peak_memory() - before, sent[-2] - sent[-3], min(seconds[1:-1])]) + "\n")


if __name__ == "__main__":
    main()
