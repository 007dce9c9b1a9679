"""Which part each node of a graph goes to."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.errors import ConfigError
from distgnn.storage.toolkit.sampling import derive_seed, sample_without_replacement

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("metis", "hash", "range")


def assign_nodes(edge_index: Tensor, num_nodes: int, num_parts: int, *, method: str = "metis", seed: int = 0) -> Tensor:
    """Assign every node to a part.

    Args:
        edge_index: ``[2, E]``; only METIS looks at it.
        num_nodes: Number of nodes.
        num_parts: Number of parts; some stay empty where there are more than nodes.
        method: ``"metis"`` keeps neighbors together (`Karypis and Kumar, 1998
            <https://doi.org/10.1137/S1064827595287997>`_) and holds the graph's structure in memory; ``"hash"`` puts
            each node anywhere by its id, ``"range"`` keeps ranges of ids together.
        seed: Of METIS and of the hash.

    Returns:
        ``[num_nodes]`` int32, the part of each node.

    Raises:
        ConfigError: No such method or number of parts, or METIS is not installed.
    """
    check_method(num_parts, method)
    nodes = torch.arange(num_nodes)
    if num_parts == 1 or method == "range":
        return (nodes * num_parts // max(num_nodes, 1)).int()
    if method == "hash":
        # Choosing one of num_parts is a hash of the node.
        chosen = sample_without_replacement(nodes.numpy(), np.full(num_nodes, num_parts), 1, seed)
        return torch.from_numpy(chosen).flatten().int()
    return _metis(edge_index, num_nodes, num_parts, seed) if num_parts < num_nodes else nodes.int()


def default_method() -> str:
    """METIS where pymetis is installed, and a hash of ids elsewhere."""
    return "hash" if find_spec("pymetis") is None else "metis"


def check_method(num_parts: int, method: str) -> None:
    """Refuse a method or a number of parts that cannot be.

    Raises:
        ConfigError: There is no such method, or no part.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if num_parts < 1:
        raise ConfigError(f"a graph has at least 1 part, not {num_parts}")


def _metis(edge_index: Tensor, num_nodes: int, num_parts: int, seed: int) -> Tensor:
    try:
        import pymetis  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigError(
            "method 'metis' needs the package pymetis: pip install 'distgnn[metis]'; or choose the method hash or range"
        ) from error
    # An edge counts as often as it is there, in either direction, so that METIS cuts the least of the edges given.
    sources, destinations = edge_index.numpy()
    pairs = np.concatenate([sources * num_nodes + destinations, destinations * num_nodes + sources])
    pairs = pairs[np.tile(sources != destinations, 2)]
    pairs.sort()
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    weights = np.diff(first, append=len(pairs))
    pairs = pairs[first]
    starts = np.searchsorted(pairs, np.arange(num_nodes + 1) * num_nodes)
    pairs %= num_nodes
    width = pymetis.zero_copy_dtype()
    _, parts = pymetis.part_graph(
        num_parts,
        pymetis.CSRAdjacency(starts.astype(width, copy=False), pairs.astype(width, copy=False)),
        eweights=weights.astype(width, copy=False),
        options=pymetis.Options(seed=derive_seed(seed) % 2**31),
    )
    return torch.tensor(parts, dtype=torch.int32)
