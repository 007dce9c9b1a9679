"""Train a GIN over stored embeddings with PyTorch Lightning, on sampled batches of a generated graph.

    pip install "distgnn[lightning]"
    python lightning_example.py --epochs 5

Two things differ from a module without stores. There are two optimizers in a step, torch's for the layers and one over
the stores for the rows, so the module steps them itself. And Lightning's checkpoints hold the layers alone: the rows
are in the stores, which ``distgnn.checkpoint`` saves.
"""

import argparse
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import distgnn
from distgnn.data import generate_graph
from distgnn.graph import neighbor_loader
from distgnn.nn import DistributedGIN
from distgnn.optim import SparseAdam

NODES, EDGES, CLASSES = 2_000, 20_000, 4


class LightningGIN(lightning.LightningModule):
    """Classify nodes that have no features but their stored embeddings.

    Args:
        y: Labels ``[nodes]``.
        channels: Width of the embeddings and the layers.
        lr: Learning rate of the layers.
        sparse_lr: Learning rate of the embeddings.
    """

    def __init__(self, y: Tensor, channels: int = 32, lr: float = 0.005, sparse_lr: float = 0.05) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lr, self.sparse_lr, self.y = lr, sparse_lr, y
        self.gin = DistributedGIN(
            channels, channels, num_layers=2, out_channels=CLASSES, use_dist_embedding=True, embedding_name="nodes"
        )
        self.gin.set_num_embeddings(num_nodes=NODES)

    def forward(self, batch: Any) -> Tensor:
        """Give the scores ``[B, classes]`` of the batch's seed nodes."""
        scores: Tensor = self.gin(None, batch.edge_index, node_ids=batch.n_id)
        return scores[: batch.batch_size]

    def training_step(self, batch: Any) -> None:
        """Step both optimizers."""
        loss = cross_entropy(self(batch), self.y[batch.n_id[: batch.batch_size]])
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        self.log("loss", loss, prog_bar=True, batch_size=batch.batch_size)

    def test_step(self, batch: Any) -> None:
        """Measure accuracy."""
        right = self(batch).argmax(dim=-1) == self.y[batch.n_id[: batch.batch_size]]
        self.log("accuracy", right.float().mean(), batch_size=batch.batch_size)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make torch's optimizer for the layers, and one over the stores for the rows."""
        return [torch.optim.Adam(self.parameters(), lr=self.lr), SparseAdam(self, lr=self.sparse_lr)]


def main() -> None:
    """Train and test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--backend", default="memory", help="of one process: memory, mmap, fbgemm, ...")
    arguments = parser.parse_args()
    lightning.seed_everything(0)
    data = generate_graph(NODES, EDGES, num_classes=CLASSES)
    with distgnn.use(arguments.backend) as backend:
        graph = backend.open_graph(distgnn.GraphSpec("graph", NODES, EDGES), data.edge_index)

        def loader(nodes: Tensor) -> Any:
            return neighbor_loader((None, graph), [10, 10], nodes, batch_size=256, shuffle=True)

        trainer = lightning.Trainer(
            max_epochs=arguments.epochs, accelerator="cpu", logger=False, enable_checkpointing=False
        )
        model = LightningGIN(data.y)
        trainer.fit(model, loader(data.train_mask))
        trainer.test(model, loader(data.test_mask))


if __name__ == "__main__":
    main()
