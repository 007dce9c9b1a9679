"""Initial rows, equal on every backend and sharding."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from distgnn.storage.specs import EmbeddingSpec

BLOCK_ROWS = 128


def initial_rows(spec: EmbeddingSpec, start: int, stop: int, *, out: Tensor | None = None) -> Tensor:
    r"""Make rows ``start`` to ``stop`` (excluded) of a store as they are before any update.

    Rows are drawn from :math:`\mathcal{N}(0, \mathrm{std}^2)` with NumPy's Philox generator, keyed by (seed, name) and
    counted by blocks of 128 rows, so that any shard makes its own rows without making the others, and a store that
    grows keeps the rows it had.

    Args:
        spec: The store.
        start: First row id, at least 0.
        stop: The row id after the last, at least ``start``; may be beyond ``spec.num_embeddings``.
        out: ``[stop - start, embedding_dim]`` on the CPU, where the rows are written; fresh memory if left out.

    Returns:
        ``[stop - start, embedding_dim]`` of ``spec.dtype`` on the CPU.
    """
    rows = torch.empty(stop - start, spec.embedding_dim, dtype=spec.dtype) if out is None else out
    for first, block in _blocks(spec, range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS))):
        begin, end = max(first, start), min(first + BLOCK_ROWS, stop)
        rows[begin - start : end - start] = torch.from_numpy(block[begin - first : end - first])
    return rows


def initial_rows_of(spec: EmbeddingSpec, ids: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Make the rows of any ids as :func:`initial_rows` makes them.

    A block of 128 rows that some of the ids are in is drawn once, whatever the order of the ids.

    Args:
        spec: The store.
        ids: ``[K]`` int64 on the CPU, at least 0.
        out: ``[K, embedding_dim]`` on the CPU, where the rows are written; fresh memory if left out.

    Returns:
        ``[K, embedding_dim]`` of ``spec.dtype`` on the CPU.
    """
    rows = torch.empty(ids.numel(), spec.embedding_dim, dtype=spec.dtype) if out is None else out
    numbers = ids.numpy() // BLOCK_ROWS
    order = np.argsort(numbers, kind="stable")
    blocks, starts = np.unique(numbers[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)][: len(blocks)]
    for (first, block), begin, end in zip(_blocks(spec, blocks.tolist()), starts.tolist(), ends, strict=True):
        some = torch.from_numpy(order[begin:end])
        rows[some] = torch.from_numpy(block[(ids[some] - first).numpy()]).to(spec.dtype)
    return rows


def _blocks(spec: EmbeddingSpec, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    digest = hashlib.blake2b(f"{spec.seed}/{spec.name}".encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    for block in numbers:
        # A block uses far fewer than 2**128 numbers, so blocks that differ in the third counter word never overlap.
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, block, 0]))
        numbers = generator.standard_normal((BLOCK_ROWS, spec.embedding_dim), dtype=np.float32)
        yield block * BLOCK_ROWS, np.multiply(numbers, np.float32(spec.std), out=numbers)
