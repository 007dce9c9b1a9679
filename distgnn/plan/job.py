"""A run to be planned, and what each rank has of its graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from distgnn.errors import ConfigError, DataFormatError
from distgnn.graph.partition.reader import read_manifest
from distgnn.graph.partition.summary import summarize_partition
from distgnn.optim import RULES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FLOAT, ID = 4, 8  # bytes


@dataclass(frozen=True)
class Job:
    """Full-graph training of a GIN over stored node embeddings.

    Args:
        nodes: Of the graph.
        edges: Of the graph, directed.
        embedding_dim: Width of the embeddings.
        hidden_channels: Width of the hidden layers.
        num_layers: Message passing layers.
        num_classes: Width of the output.
        num_features: Width of the nodes' features, 0 for none.
        rule: The embeddings' update rule, a key of :data:`distgnn.optim.RULES`.
        dropout: Whether there is any.

    Raises:
        ConfigError: A number cannot be, or there is no such rule.
    """

    nodes: int
    edges: int
    embedding_dim: int = 64
    hidden_channels: int = 64
    num_layers: int = 3
    num_classes: int = 8
    num_features: int = 0
    rule: str = "adam"
    dropout: bool = True

    def __post_init__(self) -> None:
        for name in ("nodes", "embedding_dim", "hidden_channels", "num_layers", "num_classes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("edges", "num_features"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.rule not in RULES:
            raise ConfigError(f"sparse_optimizer must be one of {', '.join(RULES)}, not {self.rule!r}")

    @property
    def widths(self) -> list[int]:
        """Widths of the input and of each layer's output."""
        hidden = [self.hidden_channels] * (self.num_layers - 1)
        return [self.num_features or self.embedding_dim, *hidden, self.num_classes]

    @property
    def state_width(self) -> int:
        """Numbers of state beside each row."""
        return sum(spec.width for spec in RULES[self.rule]().state(self.embedding_dim).values())

    @property
    def parameters(self) -> int:
        """Numbers in the dense layers."""
        layers = sum(a * b + b + b * b + b for a, b in pairwise(self.widths))
        return layers + (
            self.embedding_dim * self.num_features if self.num_features not in {0, self.embedding_dim} else 0
        )


@dataclass(frozen=True)
class Part:
    """A rank's nodes and edges, and its halo.

    Args:
        nodes: Its own.
        edges: Those that end in them.
        halo: Nodes of other ranks that these come from, whose rows it asks for.
        asked: Rows that other ranks ask of it; one that several ask for counts for each.
    """

    nodes: float
    edges: float
    halo: float
    asked: float

    @property
    def lookups(self) -> float:
        """Rows of embeddings that it needs."""
        return self.nodes + self.halo


def even_part(job: Job, ranks: int, halo_ratio: float | None = None) -> Part:
    r"""Say what each of so many ranks has when all have the same.

    Args:
        job: The run.
        ranks: How many, W.
        halo_ratio: Halo nodes for each own node. None assigns nodes at random, as ``distgnn partition --method hash``:
            a node of another rank is in the halo if any of its out-edges ends here, which with the N nodes' E edges
            from sources at random has the probability :math:`1 - e^{-E / (N W)}`. Where out-degrees differ more, halos
            are smaller.
    """
    own = job.nodes / ranks
    if halo_ratio is None:
        halo = job.nodes * (1 - 1 / ranks) * -math.expm1(-job.edges / (job.nodes * ranks))
    else:
        halo = min(halo_ratio * own, job.nodes - own)
    return Part(own, job.edges / ranks, halo, halo)


def parts_of(folder: Path) -> list[Part]:
    """Say what each rank has of a graph that is cut.

    Args:
        folder: A partition.

    Raises:
        DataError: It is none.
    """
    found = summarize_partition(folder)
    assert found.report is not None
    bounds = torch.tensor(read_manifest(folder)["node_bounds"].bounds)
    asked = torch.zeros(len(found.nodes), dtype=torch.int64)
    for number in range(len(found.nodes)):
        halo = _halo(folder / f"part-{number}" / "graph.safetensors")
        asked += torch.searchsorted(halo, bounds).diff()
    return [
        Part(part.nodes, part.edges, part.halo_nodes, rows)
        for part, rows in zip(found.report.parts, asked.tolist(), strict=True)
    ]


def _halo(path: Path) -> Tensor:
    """Read the halo of a part, ascending, and nothing else of its file."""
    try:
        with safe_open(path, "pt") as file:
            halo: Tensor = file.get_tensor("halo")
    except (SafetensorError, OSError) as error:
        raise DataFormatError(f"{path} cannot be read ({error}); partition the graph anew") from error
    return halo
