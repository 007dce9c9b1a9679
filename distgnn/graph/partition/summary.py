"""A partition's contents, from its manifest and headers alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from distgnn.checkpoint.tensors import FileSummary
from distgnn.errors import DataFormatError
from distgnn.graph.partition.dgl import read_dgl_config
from distgnn.graph.partition.reader import read_manifest
from distgnn.graph.partition.report import PartitionReport, PartSummary
from distgnn.graph.partition.writer import FORMAT

if TYPE_CHECKING:
    from pathlib import Path

    Features = dict[str, dict[str, tuple[str, list[int]]]]


@dataclass(frozen=True)
class PartitionSummary:
    """A partition.

    Args:
        folder: Where it is.
        format: Its format and version.
        written_by: What wrote it.
        method: How nodes were assigned.
        nodes: Nodes of each part.
        edges: Edges of each part.
        types: The numbers of nodes and edges of each type; empty where there is one type of each.
        features: The type and shape of each feature of ``"nodes"`` and ``"edges"``, over all parts; DGL's is not told.
        report: How well it was cut; None for DGL's, which does not tell.
        files: Its files, by name.
    """

    folder: str
    format: str
    written_by: str
    method: str
    nodes: list[int]
    edges: list[int]
    types: dict[str, int]
    features: Features | None
    report: PartitionReport | None
    files: dict[str, FileSummary]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files.values())

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        sizes = {"num_nodes": sum(self.nodes), "num_edges": sum(self.edges), "size": self.size}
        report = None if self.report is None else self.report.as_dict()
        return {"kind": "partition", **asdict(self), **sizes, "report": report}


def summarize_partition(folder: Path) -> PartitionSummary:
    """Look into a folder of :func:`~distgnn.graph.partition_graph`.

    Raises:
        DatasetNotFoundError: It is none.
        DataFormatError: Its manifest is damaged.
    """
    manifest = read_manifest(folder)
    nodes, edges = (
        [last - first for first, last in pairwise(manifest[bounds].bounds)] for bounds in ("node_bounds", "edge_bounds")
    )
    try:
        found = manifest["report"]
        parts = tuple(PartSummary(**part) for part in found["parts"])
        report = PartitionReport(str(folder), str(found["method"]), parts, tuple(found["left_out"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(f"{folder} lacks or spoils its report ({error!r}); partition the graph anew") from error
    features: Features = {"nodes": {}, "edges": {}}
    files = {name: _look(folder / name, saved.size) for name, saved in manifest["files"].items()}
    for kind, total in (("nodes", sum(nodes)), ("edges", sum(edges))):
        name = f"part-0/{kind}.safetensors"
        if name not in files or files[name].problem:
            continue
        try:
            with safe_open(folder / name, "pt") as file:
                for feature in file.keys():  # noqa: SIM118  # it is no dictionary
                    rows = file.get_slice(feature)
                    features[kind][feature] = rows.get_dtype(), [total, *rows.get_shape()[1:]]
        except (SafetensorError, OSError) as error:
            files[name] = FileSummary(files[name].size, f"no safetensors file: {error}")
    return PartitionSummary(
        folder=str(folder),
        format=f"{FORMAT}, version {manifest['version']}",
        written_by=str(manifest.get("written_by")),
        method=report.method,
        nodes=nodes,
        edges=edges,
        types={},
        features=features,
        report=report,
        files=files,
    )


def summarize_dgl_partition(config: Path) -> PartitionSummary:
    """Look into a folder of ``dgl.distributed.partition_graph``; DGL need not be there.

    Args:
        config: Its ``.json`` file.

    Raises:
        DatasetNotFoundError: There is no such file.
        DataFormatError: It is none of DGL's.
    """
    found = read_dgl_config(config)
    try:
        ranges = {**found["node_map"], **found["edge_map"]}
        counts = {name: [int(last) - int(first) for first, last in parts] for name, parts in ranges.items()}
        nodes, edges = (
            [sum(counts[name][part] for name in found[maps]) for part in range(found["num_parts"])]
            for maps in ("node_map", "edge_map")
        )
        names = [str(name) for part in range(found["num_parts"]) for name in found[f"part-{part}"].values()]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(f"{config} lacks or spoils a part ({error!r}); let DGL write it again") from error
    return PartitionSummary(
        folder=str(config.parent),
        format="partition of DGL's",
        written_by="dgl.distributed",
        method=str(found["part_method"]),
        nodes=nodes,
        edges=edges,
        types={name: sum(parts) for name, parts in counts.items()} if len(counts) > 2 else {},
        features=None,
        report=None,
        files={name: _look(config.parent / name) for name in names},
    )


def _look(path: Path, size: int | None = None) -> FileSummary:
    if not path.is_file():
        return FileSummary(0, "missing")
    found = path.stat().st_size
    is_right = size in {None, found}
    return FileSummary(found, "" if is_right else f"{found:,} bytes, not the {size:,} it was written with")
