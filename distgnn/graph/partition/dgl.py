"""Partitions in the folders of ``dgl.distributed.partition_graph``, from there and to there."""

from __future__ import annotations

import json
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distgnn.errors import ConfigError, DataFormatError, DatasetNotFoundError
from distgnn.graph.partition.reader import open_partition, read_manifest
from distgnn.graph.partition.writer import PartitionWriter, check_free, unfinished_folder
from distgnn.graphbolt import import_dgl

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.graph.partition.reader import Partition
    from distgnn.graph.partition.report import PartitionReport

_NODE, _EDGE = "_N", "_N:_E:_N"  # DGL's names of the only node type and the only edge type
_USER_IDS = "orig_id"


def partition_from_dgl(config: str | Path, out: str | Path, *, overwrite: bool = False) -> PartitionReport:
    """Rewrite a partition of DGL's, of one node type and one edge type, as :func:`~distgnn.graph.partition_graph`'s.

    Parts and the new ids of nodes stay as they are; edges are numbered by their destinations. The user's ids are DGL's
    new ones, as its folders have no others, unless there is a feature ``orig_id`` of nodes or edges, as
    :func:`partition_to_dgl` writes it.

    Args:
        config: The ``.json`` file of DGL's folder.
        out: The folder to write.
        overwrite: Replace a partition that is there.

    Raises:
        DatasetNotFoundError: There is no such file.
        DataFormatError: It is none of DGL's, or of several types of nodes or edges, or ``orig_id`` names one twice.
        ConfigError: ``out`` is there already, or DGL is not installed.
    """
    config, out = Path(config), Path(out)
    check_free(out, overwrite=overwrite)
    dgl = _import_dgl()
    sizes = read_dgl_config(config)
    if any(len(sizes.get(types_, [0])) != 1 for types_ in ("ntypes", "etypes")):
        raise DataFormatError(f"{config} has several types of nodes or edges; only graphs of one type can be rewritten")
    num_parts: int = sizes["num_parts"]

    def load(part: int) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        graph, node_rows, edge_rows, *_ = dgl.distributed.load_partition(str(config), part)
        return graph, *(
            {name.rpartition("/")[2]: rows for name, rows in all_.items()} for all_ in (node_rows, edge_rows)
        )

    # The ids of halo nodes are those of other parts, so all are needed first.
    node_ids = torch.arange(sizes["num_nodes"])
    for part in range(num_parts):
        graph, node_rows, _ = load(part)
        if _USER_IDS in node_rows:
            node_ids[graph.ndata[dgl.NID][graph.ndata["inner_node"].bool()].sort().values] = node_rows[_USER_IDS]
    _check_permutation(config, node_ids)
    with PartitionWriter(out, node_ids, sizes["num_edges"], overwrite=overwrite) as writer:
        for part in range(num_parts):
            graph, node_rows, edge_rows = load(part)
            own = graph.ndata[dgl.NID][graph.ndata["inner_node"].bool()]
            first = int(own.min()) if own.numel() else 0
            sources, destinations = (graph.ndata[dgl.NID][end] for end in graph.edges())
            inner = graph.edata["inner_edge"].bool().nonzero().flatten()
            order = inner[torch.argsort(destinations[inner], stable=True)]
            edges = graph.edata[dgl.EID][order]
            starts = edges.min() if edges.numel() else 0
            degrees = (destinations[order] - first).bincount(minlength=own.numel())
            ids = edge_rows.get(_USER_IDS, graph.edata[dgl.EID][inner].sort().values)
            writer.add_part(
                torch.cat([torch.zeros(1, dtype=torch.int64), degrees.cumsum(0)]),
                sources[order],
                ids[edges - starts],
                node_features={name: rows for name, rows in node_rows.items() if name != _USER_IDS},
                node_rows=torch.arange(own.numel()),
                edge_features={name: rows for name, rows in edge_rows.items() if name != _USER_IDS},
                edge_rows=edges - starts,
            )
        return writer.finish(f"DGL's {sizes['part_method']}", None)


def partition_to_dgl(folder: str | Path, out: str | Path, *, graph_name: str = "graph") -> Path:
    """Write a partition as DGL's, for ``dgl.distributed.load_partition`` and ``DistGraph``.

    New ids of nodes and edges stay as they are; your ids are the features ``orig_id``. Masks become uint8, as DGL
    has them.

    Args:
        folder: A folder of :func:`~distgnn.graph.partition_graph`.
        out: The folder to write; must not be there.
        graph_name: What DGL calls the graph, and its ``.json`` file.

    Returns:
        The ``.json`` file.

    Raises:
        DatasetNotFoundError: The folder is no partition, or a file of it is missing.
        DataFormatError: A file of it was cut off or changed, or has a type that DGL has not.
        ConfigError: ``out`` is there already, or DGL is not installed.
    """
    folder, out = Path(folder), Path(out)
    check_free(out, overwrite=False)
    dgl = _import_dgl()
    manifest = read_manifest(folder)
    nodes, edges = manifest["node_bounds"].bounds, manifest["edge_bounds"].bounds
    metadata: dict[str, object] = {
        "graph_name": graph_name,
        "num_nodes": nodes[-1],
        "num_edges": edges[-1],
        "part_method": manifest["report"]["method"],
        "num_parts": len(nodes) - 1,
        "halo_hops": 1,
        "node_map": {_NODE: [list(pair) for pair in pairwise(nodes)]},
        "edge_map": {_EDGE: [list(pair) for pair in pairwise(edges)]},
        "ntypes": {_NODE: 0},
        "etypes": {_EDGE: 0},
    }
    unfinished = unfinished_folder(out)
    try:
        for number in range(len(nodes) - 1):
            metadata[f"part-{number}"] = _write_part(dgl, open_partition(folder, number), unfinished)
        (unfinished / f"{graph_name}.json").write_text(json.dumps(metadata, indent=4))
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out / f"{graph_name}.json"


def _write_part(dgl: Any, part: Partition, out: Path) -> dict[str, str]:
    """Write one part, and return the names of its files as DGL's ``.json`` file has them."""
    own = torch.arange(*part.nodes.bounds[part.part : part.part + 2])
    everywhere = torch.cat([own, part.halo])
    order = everywhere.argsort()
    local = order[torch.searchsorted(everywhere[order], part.edge_index)]
    graph = dgl.graph((local[0], local[1]), num_nodes=everywhere.numel())
    graph.ndata[dgl.NID] = everywhere
    graph.ndata["inner_node"] = (torch.arange(everywhere.numel()) < own.numel()).to(torch.uint8)
    graph.ndata["part_id"] = torch.bucketize(everywhere, torch.tensor(part.nodes.bounds[1:]), right=True)
    graph.edata[dgl.EID] = torch.arange(*part.edges.bounds[part.part : part.part + 2])
    graph.edata["inner_edge"] = torch.ones(part.edge_ids.numel(), dtype=torch.uint8)
    name = f"part{part.part}"
    files = {
        "node_feats": f"{name}/node_feat.dgl",
        "edge_feats": f"{name}/edge_feat.dgl",
        "part_graph": f"{name}/graph.dgl",
    }
    (out / name).mkdir(parents=True)
    for kind, prefix, rows in (
        ("node_feats", _NODE, {**part.node_features, _USER_IDS: part.node_ids}),
        ("edge_feats", _EDGE, {**part.edge_features, _USER_IDS: part.edge_ids}),
    ):
        tensors = {f"{prefix}/{feature}": _for_dgl(feature, tensor) for feature, tensor in rows.items()}
        dgl.data.utils.save_tensors(str(out / files[kind]), tensors)
    dgl.save_graphs(str(out / files["part_graph"]), [graph], formats=["coo"])
    return files


def read_dgl_config(config: Path) -> dict[str, Any]:
    """Read the ``.json`` file of a partition of DGL's.

    Raises:
        DatasetNotFoundError: There is none.
        DataFormatError: It is something else.
    """
    try:
        found = json.loads(config.read_text())
    except OSError as error:
        raise DatasetNotFoundError(f"{config} cannot be read: {error}; give the .json file of DGL's folder") from error
    except ValueError as error:
        raise DataFormatError(f"{config} is no JSON: {error}; give the .json file of DGL's folder") from error
    sizes = {"num_parts", "num_nodes", "num_edges", "part_method"}
    if not isinstance(found, dict) or not sizes <= set(found):
        raise DataFormatError(f"{config} is no partition of DGL's: it lacks {', '.join(sorted(sizes))}")
    return found


def _check_permutation(config: Path, ids: Tensor) -> None:
    if not torch.equal(ids.sort().values, torch.arange(ids.numel())):
        raise DataFormatError(f"{config}: the feature {_USER_IDS!r} of nodes does not name each node once; remove it")


def _for_dgl(name: str, rows: Tensor) -> Tensor:
    if rows.dtype == torch.bfloat16:
        raise DataFormatError(f"{name!r} is of {rows.dtype}, which DGL's files do not hold; convert it with .float()")
    return rows.to(torch.uint8) if rows.dtype == torch.bool else rows.contiguous()


def _import_dgl() -> Any:
    """Import DGL.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_dgl()
            import dgl.distributed  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigError(f"DGL's partitions need dgl: pip install 'distgnn[dgl]' ({error})") from error
    return dgl
