"""What a rank does with checkpoints: run as ``python checkpoint_rank.py BACKEND FOLDER WORDS...``.

The words are done one after the other: ``train`` prints three losses, ``save=NAME`` and ``load=NAME`` do that. With
``cut=SEED`` as the first word rows are placed by a partition, at random, of unequal parts.
"""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

import distgnn
from distgnn import EmbeddingSpec, PartitionBook, TensorSpec
from distgnn.checkpoint import Checkpoint, Stateful
from distgnn.data import generate_graph
from distgnn.nn import DistributedGIN
from distgnn.optim import Adagrad, SparseAdam
from distgnn.train.session import Session

if TYPE_CHECKING:
    from distgnn import Backend, EmbeddingStore, TensorStore

GRAPH = generate_graph(300, 1500)


def cut(num_rows: int, world_size: int, seed: int | None) -> PartitionBook | None:
    """Place rows at random; the first ranks have fewer of them, or none."""
    if seed is None:
        return None
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    return PartitionBook(tuple(num_rows * rank**2 // world_size**2 for rank in range(world_size + 1)), order)


class Job:
    """A model that is trained on all nodes, with dropout, and further stores.

    Args:
        backend: Where the stores are.
        seed: Of what it starts from.
        placed: Of where rows are; None cuts them evenly.
    """

    def __init__(self, backend: Backend, seed: int, placed: int | None = None) -> None:
        torch.manual_seed(seed)
        self.session = Session(backend)
        self.model = DistributedGIN(
            8, 8, num_layers=2, dropout=0.5, use_dist_embedding=True, embedding_name="nodes", backend=backend
        )
        assert self.model.node_features is not None
        ranks = self.session.world_size
        self.model.node_features.embedding.set_num_embeddings(300, partition=cut(300, ranks, placed))
        self._wrapped = self.session.wrap(self.model, sync_batch_norm=False)
        self._dense = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self._sparse = SparseAdam(self.model, lr=0.01)
        self._schedule = torch.optim.lr_scheduler.StepLR(self._dense, 2, 0.5)
        self.words = backend.open_embedding(
            EmbeddingSpec("words", 101, 5, torch.float64, seed, partition=cut(101, ranks, placed))
        )
        self.halves = backend.open_embedding(  # some ranks have none
            EmbeddingSpec("halves", 2, 3, torch.float16, seed, partition=cut(2, ranks, placed))
        )
        self.counts = backend.open_tensor(
            TensorSpec("counts", (57, 2, 3), torch.int64, partition=cut(57, ranks, placed))
        )
        parts: dict[str, Stateful] = {
            "model": self.model,
            "dense": self._dense,
            "sparse": self._sparse,
            "schedule": self._schedule,
        }
        self.stores: dict[str, EmbeddingStore | TensorStore] = {
            "words": self.words,
            "halves": self.halves,
            "counts": self.counts,
        }
        self.checkpoint = Checkpoint(self.session, parts, self.stores)

    def train(self) -> list[float]:
        """Make three steps; the gradients of the further stores are exact numbers, whoever brings them."""
        train = GRAPH.train_mask.nonzero().flatten()
        rank, ranks = self.session.rank, self.session.world_size
        mine = train[rank::ranks]
        losses = []
        for _ in range(3):
            self._dense.zero_grad()
            out = self._wrapped(None, GRAPH.edge_index)
            loss = cross_entropy(out[mine], GRAPH.y[mine], reduction="sum") / train.numel()
            loss.backward()
            for optimizer in (self._dense, self._sparse, self._schedule):
                optimizer.step()
            losses += self.session.sum([float(loss.detach())])
            ids = torch.arange(101)[rank::ranks]
            self.words.apply_gradients(ids, (ids[:, None].double() % 8).expand(-1, 5) / 8, Adagrad(lr=0.5))
            ids = torch.arange(2)[rank::ranks]
            self.halves.apply_gradients(ids, torch.ones(ids.numel(), 3), Adagrad(lr=0.5))
            ids = torch.arange(57)[rank::ranks]
            self.counts.write(ids, ids[:, None, None].expand(-1, 2, 3), accumulate=True)
        return losses


def main() -> None:
    faulthandler.dump_traceback_later(100, exit=True)
    name, folder, *words = sys.argv[1:]
    with distgnn.use(name, timeout=30) as backend:
        placed = int(words.pop(0).removeprefix("cut=")) if words[0].startswith("cut=") else None
        job = Job(backend, seed=3 if words[0] == "train" else 4, placed=placed)
        for word in words:
            what, _, checkpoint = word.partition("=")
            if what == "train":
                print("losses", *job.train())  # noqa: T201  # the test reads it
            else:
                getattr(job.checkpoint, what)(Path(folder) / checkpoint)


if __name__ == "__main__":
    main()
