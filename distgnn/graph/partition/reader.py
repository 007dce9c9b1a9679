"""Loading one part of a partitioned graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distgnn.checkpoint.tensors import SavedFile, load_tensors
from distgnn.errors import ConfigError, DataFormatError, DatasetNotFoundError
from distgnn.graph.checks import STRUCTURE, check_rows, check_structure
from distgnn.graph.partition.writer import FORMAT, IDS, MANIFEST
from distgnn.storage.specs import PartitionBook

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_LARGEST_MANIFEST = 1 << 28  # bytes; a million parts have less
# What each version of a manifest says of a file.
_FILES: dict[int, Callable[[Any], SavedFile]] = {
    1: lambda size: SavedFile(int(size)),
    2: lambda about: SavedFile(int(about["size"]), int(about["crc32"])),
}


@dataclass(frozen=True, eq=False)
class Partition:
    """One part of a graph, in memory.

    Nodes and edges go by new ids: part p owns the nodes ``nodes.bounds[p]`` to ``nodes.bounds[p + 1]``, excluded, and
    the edges that end in them, ``edges.bounds[p]`` to ``edges.bounds[p + 1]``, in the order of their destinations.

    Attributes:
        folder: The partition's folder.
        part: Which part.
        nodes: Which part owns which nodes.
        edges: Which part owns which edges.
        node_ids: ``[n]``, the user's ids of its nodes.
        edge_ids: ``[e]``, the user's ids of its edges.
        colptr: ``[n + 1]``, where the edges of its nodes begin among its own.
        sources: ``[e]``, new ids of the nodes that its edges come from.
        halo: ``[h]``, new ids of those that are another part's, ascending.
        halo_ids: ``[h]``, the user's ids of these.
        node_features: Rows of its nodes ``[n, ...]``, by name.
        edge_features: Rows of its edges ``[e, ...]``, by name.
    """

    folder: Path
    part: int
    nodes: PartitionBook
    edges: PartitionBook
    node_ids: Tensor
    edge_ids: Tensor
    colptr: Tensor
    sources: Tensor
    halo: Tensor
    halo_ids: Tensor
    node_features: dict[str, Tensor]
    edge_features: dict[str, Tensor]

    @property
    def edge_index(self) -> Tensor:
        """The edges ``[2, e]`` by new ids, sources above destinations."""
        first, last = self.nodes.bounds[self.part : self.part + 2]
        return torch.stack([self.sources, torch.arange(first, last).repeat_interleave(self.colptr.diff())])


def open_partition(folder: str | Path, part: int) -> Partition:
    """Load one part of what :func:`~distgnn.graph.partition_graph` wrote; no other part's files are touched.

    Args:
        folder: The partition's folder.
        part: Which part, from 0.

    Raises:
        DatasetNotFoundError: The folder is no partition, or a file of the part is missing; the text names it.
        DataFormatError: A file was cut off or changed; the text names it.
        ConfigError: There is no such part.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    nodes, edges = manifest["node_bounds"], manifest["edge_bounds"]
    if not 0 <= part < len(nodes.bounds) - 1:
        raise ConfigError(f"{folder} has parts 0 to {len(nodes.bounds) - 2}, not {part}")
    num_nodes, num_edges = (book.bounds[part + 1] - book.bounds[part] for book in (nodes, edges))

    def load(kind: str, names: tuple[str, ...] = ()) -> dict[str, Tensor]:
        # The names of files are ours; what else the manifest names is not opened.
        name = f"part-{part}/{kind}.safetensors"
        return load_tensors(folder / name, manifest["files"].get(name, SavedFile(0)), names)

    structure = load("graph", STRUCTURE)
    check_structure(folder / f"part-{part}" / "graph.safetensors", structure, nodes, edges, part)
    features = {"nodes": (load("nodes"), num_nodes), "edges": (load("edges"), num_edges)}
    for kind, (tensors, length) in features.items():
        for name, rows in tensors.items():
            check_rows(folder / f"part-{part}" / f"{kind}.safetensors", name, rows, length)
    return Partition(
        folder=folder,
        part=part,
        nodes=nodes,
        edges=edges,
        **{name: structure[name] for name in STRUCTURE},
        node_features=features["nodes"][0],
        edge_features=features["edges"][0],
    )


def load_new_ids(folder: str | Path) -> tuple[Tensor, Tensor]:
    """Load the new ids of all nodes ``[N]`` and edges ``[E]``, in the order of the user's ids.

    Raises:
        DatasetNotFoundError: The folder is no partition, or the file is missing.
        DataFormatError: The file was cut off or changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    ids = load_tensors(folder / IDS, manifest["files"].get(IDS, SavedFile(0)), ("nodes", "edges"))
    for name, book in (("nodes", manifest["node_bounds"]), ("edges", manifest["edge_bounds"])):
        end = book.bounds[-1]
        check_rows(folder / IDS, name, ids[name], end)
        if ids[name].dtype != torch.int64 or not torch.equal(ids[name].sort().values, torch.arange(end)):
            raise DataFormatError(f"{folder / IDS}: {name} does not name each of {end} once; partition the graph anew")
    return ids["nodes"], ids["edges"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a partition; its bounds become partition books.

    Raises:
        DatasetNotFoundError: There is none.
        DataFormatError: It is not what it should be.
    """
    path = folder / MANIFEST
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > _LARGEST_MANIFEST):
            raise DataFormatError(f"{path} is no file of at most {_LARGEST_MANIFEST:,} bytes; partition the graph anew")
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise DatasetNotFoundError(
            f"{folder} is no partition: {path} cannot be read; write one with distgnn partition"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{path} is no JSON ({error}); partition the graph anew") from error
    version = manifest.get("version") if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None
    if type(version) is not int or version not in _FILES:
        known = " or ".join(map(str, _FILES))
        raise DataFormatError(f"{path} is not that of a {FORMAT!r} of version {known}, which this distgnn reads")
    try:
        books = {name: PartitionBook(tuple(map(int, manifest[name]))) for name in ("node_bounds", "edge_bounds")}
        files = {str(name): _FILES[version](about) for name, about in manifest["files"].items()}
        ends = [book.bounds[-1] for book in books.values()]
        lengths = {len(book.bounds) for book in books.values()}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataFormatError(
            f"{path} lacks or spoils bounds or files ({error!r}); partition the graph anew"
        ) from error
    if ends != [manifest.get("num_nodes"), manifest.get("num_edges")] or len(lengths) != 1:
        raise DataFormatError(f"{path}: the bounds of parts do not fit the graph; partition it anew")
    return {**manifest, **books, "files": files}
