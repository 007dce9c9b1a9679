"""What a rank does to compare a backend with ``memory``: run as ``python exchanging_rank.py BACKEND CASES [HOSTS]``.

Every rank draws the numbers of all ranks from the same seed, gives its own to the backend and those of all to a
``memory`` backend of its own; then both must hold the same. Gradients are multiples of 1/8, whose sums are exact.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing import assert_close

import distgnn
from distgnn import EmbeddingSpec, GraphSpec, SpecError, SupportsPrefetch, TensorSpec
from distgnn.backends.memory import MemoryBackend
from distgnn.backends.pyg import PygBackend, host
from distgnn.optim import SGD, Adagrad, Adam, RowWiseAdagrad

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn import UpdateRule
    from tests.faults.failing_rank import SpreadBackend

RULES: tuple[UpdateRule, ...] = (
    SGD(lr=0.5, weight_decay=0.01),
    Adagrad(lr=0.3, lr_decay=0.1),
    RowWiseAdagrad(lr=0.3),
    Adam(lr=0.1),
)
EMBEDDING_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TENSOR_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64)
SIZES = (1, 2, 3, 5, 64, 1000)  # fewer rows than ranks, too
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (5,), (3, 4), (100,))  # the last is wider than the small buffer


class Cases:
    """Runs the calls of one case on both backends.

    Args:
        backend: The one of several ranks.
        seed: Of everything that is random.
    """

    def __init__(self, backend: SpreadBackend, seed: int) -> None:
        self.backend, self.memory = backend, MemoryBackend()
        self.random, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.size = self.random.choice(SIZES)

    def ids(self) -> list[Tensor]:
        """Draw ids for each rank, of a kind of its own."""
        return [
            self._ids_of(self.random.choice(("none", "one", "few", "any", "owner", "all")))
            for _ in range(self.backend.world_size)
        ]

    def _ids_of(self, kind: str) -> Tensor:
        first, last = 0, self.size
        if kind == "few":
            last = min(3, self.size)  # so that each comes many times
        if kind == "owner":
            ranks = self.backend.world_size
            owner = self.random.randrange(ranks)
            first, last = self.size * owner // ranks, self.size * (owner + 1) // ranks
        count = {"none": 0, "one": 1}.get(kind, self.random.randrange(1, 400)) if last > first else 0
        if kind == "all":
            return torch.randperm(self.size, generator=self.generator)
        return torch.randint(first, max(last, first + 1), (count,), generator=self.generator)

    def rows(self, ids: list[Tensor], shape: tuple[int, ...], *dtypes: torch.dtype) -> list[Tensor]:
        """Draw numbers for each rank, of one of ``dtypes``: whole ones, or eighths for a type with fractions."""
        drawn = [torch.randint(-16, 17, (part.numel(), *shape), generator=self.generator) for part in ids]
        kinds = [self.random.choice(dtypes) for _ in drawn]
        return [
            part.to(kind) if kind == torch.int64 else (part / 8).to(kind)
            for part, kind in zip(drawn, kinds, strict=True)
        ]

    def table(self, dtype: torch.dtype, rule: UpdateRule) -> None:
        spec = EmbeddingSpec("table", self.size, self.random.choice((1, 4, 17, 100)), dtype=dtype, seed=3)
        store, oracle = self.backend.open_embedding(spec), self.memory.open_embedding(spec)
        for _ in range(3):
            ids = self.ids()
            gradients = self.rows(ids, (spec.embedding_dim,), dtype, torch.float32)
            store.apply_gradients(ids[self.backend.rank], gradients[self.backend.rank], rule)
            oracle.apply_gradients(torch.cat(ids), torch.cat(gradients), rule)
            asked = self.ids()[self.backend.rank]
            self.same(store.lookup(asked), oracle.lookup(asked))
            finish = store.prefetch(asked) if isinstance(store, SupportsPrefetch) else partial(store.lookup, asked)
            if self.random.random() < 0.7:
                ids = self.ids()
                gradients = self.rows(ids, (spec.embedding_dim,), torch.float32)
                store.apply_gradients(ids[self.backend.rank], gradients[self.backend.rank], rule)
                oracle.apply_gradients(torch.cat(ids), torch.cat(gradients), rule)
            self.same(finish(), oracle.lookup(asked))
        everything = torch.arange(self.size)
        self.same(store.lookup(everything), oracle.lookup(everything))
        store.close()

    def tensor(self, dtype: torch.dtype, accumulate: bool) -> None:
        spec = TensorSpec("tensor", (self.size, *self.random.choice(SHAPES)), dtype=dtype)
        store, oracle = self.backend.open_tensor(spec), self.memory.open_tensor(spec)
        for _ in range(2):
            ids = self.ids()
            values = self.rows(ids, spec.shape[1:], dtype)
            store.write(ids[self.backend.rank], values[self.backend.rank], accumulate=accumulate)
            oracle.write(torch.cat(ids), torch.cat(values), accumulate=accumulate)
            asked = self.ids()[self.backend.rank]
            self.same(store.read(asked), oracle.read(asked))
        store.close()

    def graph(self, fanout: int) -> None:
        edges = torch.randint(0, self.size, (2, self.random.choice((0, 1, 3000))), generator=self.generator)
        spec = GraphSpec("graph", self.size, edges.size(1))
        store, oracle = self.backend.open_graph(spec, edges), self.memory.open_graph(spec, edges)
        for _ in range(4):
            nodes = self.ids()[self.backend.rank]
            for got, expected in zip(
                store.in_neighbors(nodes, fanout), oracle.in_neighbors(nodes, fanout), strict=True
            ):
                assert torch.equal(got, expected)
        store.close()

    @staticmethod
    def same(got: Tensor, expected: Tensor) -> None:
        assert_close(got, expected, rtol=1e-5, atol=1e-5)


def compare_with_memory(backend: SpreadBackend, *, seeds: range, label: str) -> None:
    works: list[Callable[[Cases], None]] = [
        *(partial(Cases.table, dtype=dtype, rule=rule) for dtype, rule in product(EMBEDDING_DTYPES, RULES)),
        *(partial(Cases.tensor, dtype=dtype, accumulate=add) for dtype, add in product(TENSOR_DTYPES, (False, True))),
        *(partial(Cases.graph, fanout=fanout) for fanout in (-1, 0, 1, 2, 10, 1000)),
    ]
    for seed in seeds:
        work = works[seed % len(works)]
        cases = Cases(backend, seed)
        try:
            work(cases)
        except SpecError:
            assert "bfloat16" in str(work)  # which a backend may refuse
        except AssertionError as error:
            raise AssertionError(f"{label}, seed {seed}, {work}, {cases.size} rows: {error}") from error


def count_bytes(backend: PygBackend) -> dict[str, float]:
    """Return what is sent over what must be: each remote row once, and 8 bytes of its id, in batches of 65,536 ids."""
    ratios = {}
    ranks = backend._ranks
    assert ranks is not None
    for batch in ("uniform", "skewed"):
        spec = EmbeddingSpec(batch, 200_000, 32)
        store = backend.open_embedding(spec)
        own = spec.num_embeddings * torch.tensor([backend.rank, backend.rank + 1]) // backend.world_size
        generator = torch.Generator().manual_seed(backend.rank)
        counts = torch.zeros(2)
        for step in range(8):
            ids = torch.randint(0, spec.num_embeddings, (65_536,), generator=generator)
            if batch == "skewed":
                ids = ids**2 // spec.num_embeddings  # more than half of them are rank 0's
            remote = torch.unique(ids[(ids < own[0]) | (ids >= own[1])]).numel()
            before = ranks.bytes_sent
            store.lookup(ids)
            store.apply_gradients(ids, torch.ones(65_536, 32), SGD())
            if step >= 2:  # messages have found their size
                counts += torch.tensor([ranks.bytes_sent - before, 2 * remote * (8 + 32 * 4)])
        dist.all_reduce(counts)
        ratios[batch] = float(counts[0] / counts[1])
    return ratios


def main() -> None:
    faulthandler.dump_traceback_later(100, exit=True)
    name, cases = sys.argv[1], int(sys.argv[2])
    if name != "pyg":
        with distgnn.use(name, timeout=20) as backend:
            compare_with_memory(backend, seeds=range(cases), label=name)  # type: ignore[arg-type]  # it has ranks
        return
    hosts = sys.argv[3]  # a letter a rank
    host._name_of_host = lambda: hosts[int(os.environ["RANK"])]
    small, large = PygBackend(timeout=20, buffer_bytes=256), PygBackend(timeout=20)
    # gloo's threads interrupt no other, and only they.
    policies = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended since
            policies.add(os.sched_getscheduler(int(thread.name)))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert os.SCHED_BATCH in policies
    compare_with_memory(small, seeds=range(cases), label="in rounds of 256 bytes")
    compare_with_memory(large, seeds=range(cases, 2 * cases), label="in one round")
    if len(set(hosts)) == len(hosts):
        sys.stdout.write(json.dumps(count_bytes(large)))
    small.close()
    large.close()


if __name__ == "__main__":
    main()
