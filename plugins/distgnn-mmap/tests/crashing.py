"""Updates a table, flushes it, says so, and goes on updating until it is killed."""

from __future__ import annotations

import sys

import torch

import distgnn
from distgnn.optim import Adagrad, Adam

STEPS = 5
RULES = (Adam(lr=0.5), Adagrad(lr=0.5, initial_accumulator_value=0.5))
SPEC = distgnn.EmbeddingSpec("table", 5_000, 8, torch.float16)


def update(store: distgnn.EmbeddingStore, step: int) -> None:
    """Update the half of the rows that a step draws, by one of the rules; Adagrad comes after the flush alone."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(SPEC.num_embeddings, (SPEC.num_embeddings // 2,), generator=generator)
    gradients = torch.randn(ids.numel(), SPEC.embedding_dim, generator=generator)
    store.apply_gradients(ids, gradients, RULES[step > STEPS and step % 2])


if __name__ == "__main__":
    opened = distgnn.use("mmap", folder=sys.argv[1])
    table = opened.backend.open_embedding(SPEC)
    for number in range(STEPS):
        update(table, number)
    opened.backend.flush()  # type: ignore[attr-defined]  # this backend's own
    other = opened.backend.open_embedding(distgnn.EmbeddingSpec("other", 10, 8))
    while True:
        number += 1
        update(table, number)
        other.apply_gradients(torch.arange(10), torch.ones(10, 8), RULES[0])
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
