"""Train a GIN on a data set, with the options of the first days of the project.

    python distributed_gin_example.py --dataset MUTAG --hidden_channels 64 --num_layers 3 --batch_size 32 --epochs 100

``distgnn train`` is the same with more options. Both fill in a TrainConfig and call train().
"""

import argparse
import sys

from rich.console import Console

import distgnn
from distgnn.train.config import TrainConfig
from distgnn.train.run import train


def options() -> TrainConfig:
    """Read the command line."""
    default = TrainConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=default.dataset, help="MUTAG, PROTEINS, Cora, ..., CustomLargeGraph")
    parser.add_argument("--edges", default=default.edges, help="edge file of CustomLargeGraph; else it is generated")
    parser.add_argument("--labels", default=default.labels, help="its label file")
    parser.add_argument("--label_column", default=default.label_column, help="column of the label file")
    parser.add_argument("--backend", default=default.backend, help="where stores live; see: distgnn backends")
    parser.add_argument("--ip_config", default=default.ip_config, help="cluster file: 'address rank' a line")
    parser.add_argument("--rank", type=int, default=default.rank, help="this machine's rank in it")
    parser.add_argument("--hidden_channels", type=int, default=default.hidden_channels)
    parser.add_argument("--num_layers", type=int, default=default.num_layers)
    parser.add_argument("--batch_size", type=int, default=default.batch_size)
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--use_dist_embedding", action="store_true", help="learn an embedding of each node")
    parser.add_argument("--embedding_dim", type=int, default=default.embedding_dim)
    parser.add_argument("--use_dist_tensor", action="store_true", help="keep layer outputs in tensor stores")
    return TrainConfig(**vars(parser.parse_args()))


if __name__ == "__main__":
    try:
        train(options(), console=Console())
    except distgnn.DistGNNError as error:
        sys.exit(f"error: {error}")
