"""Lookup + backward + update by each rule in one process, beside torch's optimizers and the limit of moving rows.

A table of 1M rows of 64 float32 columns, one thread. A step is a lookup of 4,096 or 65,536 ids and an update with a
gradient for each, through autograd; what is compared takes turns, 8 steps at a time. The limit of a row-wise Adagrad
update is to move what it must: each gradient is read, and the touched rows and their sums are read and written, by the
fastest means there are here, with ids grouped beforehand and nothing computed.

Writes rules.json and rules.png into --out.
"""

import itertools
from functools import partial
from typing import Any

import harness
import numpy as np
import torch
from embedding_cases import COLUMNS, COUNTS, KINDS, draw_ids, training
from torch import Tensor
from torch.nn import Embedding

import distgnn
from distgnn.nn import StoredEmbedding
from distgnn.optim import RowWiseAdagrad, SparseAdagrad, SparseAdam, SparseRowWiseAdagrad
from distgnn.storage.toolkit.rows import group_by_id, put_rows, take_rows

ROWS, STEPS = 1_000_000, 8
CHUNK = 2048  # rows, as many as the update takes at a time


def limit(batches: list[Tensor]) -> harness.Step:
    """Return what moves the rows of a row-wise Adagrad update, its sums and gradients, and computes nothing."""
    table, sums, gradients = torch.zeros(ROWS, COLUMNS), torch.zeros(ROWS, 1), torch.randn(max(COUNTS), COLUMNS)
    groups = {id(ids): group_by_id(ids)[:2] for ids in batches}

    def move(ids: Tensor) -> None:
        distinct, order = groups[id(ids)]
        for some in torch.split(order, CHUNK):
            take_rows(gradients, some)
        for some in torch.split(distinct, CHUNK):
            rows, numbers = take_rows(table, some), take_rows(sums, some)
            put_rows(table, some, rows)
            put_rows(sums, some, numbers)

    return harness.in_turn(move, batches, STEPS)


def groups(rounds: int) -> dict[str, dict[str, harness.Result]]:
    """Measure every rule on every kind of ids; in each group the first is what others are compared with."""
    ours = {rule: StoredEmbedding(ROWS, COLUMNS, name=rule) for rule in ("Adam", "Adagrad", "Row-wise-Adagrad")}
    theirs = {rule: Embedding(ROWS, COLUMNS, sparse=True) for rule in ("Adam", "Adagrad")}
    adam = torch.optim.SparseAdam(theirs["Adam"].parameters(), lr=0.001)
    adagrad = training(theirs["Adagrad"], torch.optim.Adagrad(theirs["Adagrad"].parameters(), lr=0.01))
    row_wise = SparseRowWiseAdagrad(ours["Row-wise-Adagrad"], lr=0.01)
    steps = {
        "Adam": (training(theirs["Adam"], adam), training(ours["Adam"], SparseAdam(ours["Adam"], lr=0.001))),
        "Adagrad": (adagrad, training(ours["Adagrad"], SparseAdagrad(ours["Adagrad"], lr=0.01))),
        "Row-wise Adagrad": (adagrad, training(ours["Row-wise-Adagrad"], row_wise)),
    }
    store = ours["Row-wise-Adagrad"].open_store()
    assert store is not None
    generator, measured = np.random.default_rng(0), {}
    for kind, count in itertools.product(KINDS, COUNTS):
        batches = [draw_ids(count, ROWS, kind, generator) for _ in range(2 * STEPS)]
        for rule, (peer, own) in steps.items():
            cases = {"torch": harness.in_turn(peer, batches, STEPS), "distgnn": harness.in_turn(own, batches, STEPS)}
            measured[f"{rule}, {kind}, {count:,} ids"] = harness.measure(cases, rounds)
        update = partial(store.apply_gradients, gradients=torch.randn(count, COLUMNS), rule=RowWiseAdagrad(lr=0.01))
        cases = {"limit": limit(batches), "distgnn": harness.in_turn(update, batches, STEPS)}
        measured[f"Row-wise Adagrad update alone, {kind}, {count:,} ids"] = harness.measure(cases, rounds)
    return measured


def asked(measured: dict[str, dict[str, harness.Result]]) -> list[dict[str, Any]]:
    """Return what is asked of each rule, and what it reached."""
    asked = {
        "Adam": ("SparseAdam", "torch", 2.5),
        "Adagrad": ("Adagrad", "torch", 2),
        "Row-wise Adagrad": ("Adagrad", "torch", 3),
        "Row-wise Adagrad update alone": ("limit: gather + scatter", "limit", 0.75),
    }
    lines = []
    for rule, (against, peer, least) in asked.items():
        for count in COUNTS:
            kinds = {kind: measured[f"{rule}, {kind}, {count:,} ids"] for kind in KINDS}
            lines += harness.line(f"{rule}, {count:,} ids", against, least, kinds, "distgnn", peer)
    return lines


def main() -> None:
    """Measure all rules."""
    arguments = harness.begin(harness.options(__doc__, rounds=7, threads=1))
    with distgnn.use("memory"):
        measured = groups(arguments.rounds)
    title = (
        f"{STEPS} steps of lookup + backward + update, {ROWS:,} rows of {COLUMNS}: times torch's speed, or the limit's"
    )
    harness.report("rules", measured, title, arguments.out, asked(measured))


if __name__ == "__main__":
    main()
