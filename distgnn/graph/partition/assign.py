"""Node assignment: METIS, hash, range."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.errors import ConfigError
from distgnn.storage.toolkit.sampling import derive_seed, sample_without_replacement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_METIS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: it ends with who asks
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
import numpy as np
import pymetis
width = pymetis.zero_copy_dtype()
starts, pairs, weights = (np.frombuffer(sys.stdin.buffer.read(8 * int(count)), np.int64) for count in sys.argv[4:])
graph = pymetis.CSRAdjacency(starts.astype(width, copy=False), pairs.astype(width, copy=False))
weights, options = weights.astype(width, copy=False), pymetis.Options(seed=int(sys.argv[3]))
_, parts = pymetis.part_graph(int(sys.argv[2]), graph, eweights=weights, options=options)
sys.stdout.buffer.write(np.array(parts, dtype=np.int32).tobytes())
"""


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
    if num_parts == 1:
        return torch.zeros(num_nodes, dtype=torch.int32)
    return METHODS[method](edge_index, num_nodes, num_parts, seed)


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


def _range(edge_index: Tensor, num_nodes: int, num_parts: int, seed: int) -> Tensor:
    del edge_index, seed
    return (torch.arange(num_nodes) * num_parts // max(num_nodes, 1)).int()


def _hash(edge_index: Tensor, num_nodes: int, num_parts: int, seed: int) -> Tensor:
    del edge_index
    # A sample of one of num_parts is a hash of the node.
    chosen = sample_without_replacement(np.arange(num_nodes), np.full(num_nodes, num_parts), 1, seed)
    return torch.from_numpy(chosen).flatten().int()


def _metis(edge_index: Tensor, num_nodes: int, num_parts: int, seed: int) -> Tensor:
    if num_parts >= num_nodes:
        return torch.arange(num_nodes, dtype=torch.int32)
    if find_spec("pymetis") is None:
        raise ConfigError(
            "method 'metis' needs the package pymetis: pip install 'distgnn[metis]'; or choose the method hash or range"
        )
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
    arrays = [np.ascontiguousarray(each, np.int64) for each in (starts, pairs, weights)]
    return torch.from_numpy(_aside(arrays, num_parts, derive_seed(seed) % 2**31))


def _aside(arrays: Sequence[NDArray[np.int64]], num_parts: int, seed: int) -> NDArray[np.int32]:
    """Run METIS in a process of its own: it lets no other thread of its process do anything, and cannot be stopped."""
    numbers = [os.getpid(), num_parts, seed, *(len(array) for array in arrays)]
    with subprocess.Popen(  # noqa: S603  # our own
        [sys.executable, "-c", _METIS, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as metis:
        assert metis.stdin is not None
        with suppress(OSError):  # it has ended, and its standard error says why
            for array in arrays:
                metis.stdin.write(array.data)
        parts, errors = metis.communicate()
    if metis.returncode:
        why = errors.decode(errors="replace").strip().rpartition("\n")[2] or "it may have had too little memory"
        raise ConfigError(f"METIS ended with code {metis.returncode}: {why}; choose the method hash or range")
    return np.frombuffer(bytearray(parts), np.int32)


METHODS: Mapping[str, Callable[[Tensor, int, int, int], Tensor]] = MappingProxyType(
    {"metis": _metis, "hash": _hash, "range": _range}
)
"""How nodes are assigned, by name: of edges ``[2, E]``, and numbers of nodes and parts, and a seed."""
