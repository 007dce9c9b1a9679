"""Writing the folder of a partition, part by part."""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from distgnn._version import __version__
from distgnn.checkpoint.tensors import TensorFile, blocks, checksum_of, save_rows, save_tensors
from distgnn.errors import ConfigError, DistGNNError
from distgnn.graph.partition.report import PartitionReport, PartSummary, draw_partition

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor
    from typing_extensions import Self

FORMAT, VERSION = "distgnn partition", 2
MANIFEST, IDS, PICTURE = "manifest.json", "ids.safetensors", "partition.png"


class PartitionWriter:
    """The folder of a partition while it is written; a context manager.

    It is written under another name, gets its own in :meth:`finish`, and is removed when that is not reached; where the
    process was killed, by the next that writes to the same name.

    Args:
        out: The folder.
        node_ids: ``[N]``, the user's ids in the order of the new ones.
        num_edges: Number of edges of the graph.
        overwrite: Replace a partition that is there.

    Raises:
        ConfigError: The folder is there already, or cannot be written.
    """

    def __init__(self, out: Path, node_ids: Tensor, num_edges: int, *, overwrite: bool) -> None:
        check_free(out, overwrite=overwrite)
        self._out = out
        self._folder = unfinished_folder(out)
        self._node_ids = node_ids
        self._num_edges = num_edges
        self._node_bounds, self._edge_bounds = [0], [0]
        self._summaries: list[PartSummary] = []

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException as error:  # a signal's among them, so that nothing is left
            self.__exit__(type(error), error, None)
            raise
        return self

    def _begin(self) -> None:
        self._folder.mkdir(parents=True)
        new = torch.empty_like(self._node_ids)
        new[self._node_ids] = torch.arange(new.numel())
        path = self._folder / IDS
        shapes = {"nodes": (torch.int64, (new.numel(),)), "edges": (torch.int64, (self._num_edges,))}
        with TensorFile(path, shapes) as file:
            file.write("nodes", 0, new)
            # Written once, so that a full disk is an error here; it would be the end of the process below.
            for first, block in blocks(self._num_edges, 8):
                file.write("edges", first, torch.zeros(block.stop - first, dtype=torch.int64))
        # The new number of an edge is known when its part is written, so this tensor, the last, fills up in any order.
        self._new_edges = np.empty(0, dtype=np.int64)
        if self._num_edges:
            self._new_edges = np.memmap(path, np.int64, "r+", path.stat().st_size - 8 * self._num_edges)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, DistGNNError):
            raise ConfigError(
                f"the partition cannot be written to {self._out}: {error}; choose another folder"
            ) from error

    def add_part(
        self,
        colptr: Tensor,
        sources: Tensor,
        edge_ids: Tensor,
        *,
        node_features: Mapping[str, Tensor],
        node_rows: Tensor,
        edge_features: Mapping[str, Tensor],
        edge_rows: Tensor,
    ) -> None:
        """Write the next part.

        Args:
            colptr: ``[n + 1]``, where the in-edges of its nodes begin.
            sources: ``[e]``, the new ids of the nodes that they come from.
            edge_ids: ``[e]``, the user's ids of the edges.
            node_features: Tensors of node features, by name.
            node_rows: ``[n]``, the rows of the part's nodes in them.
            edge_features: Tensors of edge features, by name.
            edge_rows: ``[e]``, the rows of the part's edges in them.
        """
        first = self._node_bounds[-1]
        last = first + colptr.numel() - 1
        remote = (sources < first) | (sources >= last)
        halo = torch.unique(sources[remote])
        folder = self._folder / f"part-{len(self._summaries)}"
        folder.mkdir()
        structure = {
            "node_ids": self._node_ids[first:last],
            "edge_ids": edge_ids,
            "colptr": colptr,
            "sources": sources,
            "halo": halo,
            "halo_ids": self._node_ids[halo],
        }
        save_tensors(folder / "graph.safetensors", structure)
        save_rows(folder / "nodes.safetensors", node_features, node_rows)
        save_rows(folder / "edges.safetensors", edge_features, edge_rows)
        self._new_edges[edge_ids.numpy()] = np.arange(edge_ids.numel()) + self._edge_bounds[-1]
        self._node_bounds.append(last)
        self._edge_bounds.append(self._edge_bounds[-1] + edge_ids.numel())
        self._summaries.append(PartSummary(last - first, edge_ids.numel(), int(remote.sum()), halo.numel()))

    def finish(self, method: str, seed: int | None, left_out: tuple[str, ...] = ()) -> PartitionReport:
        """Write the manifest and the picture, and give the folder its name."""
        if isinstance(self._new_edges, np.memmap):
            self._new_edges.flush()
        report = PartitionReport(str(self._out), method, tuple(self._summaries), left_out)
        draw_partition(report, self._folder / PICTURE)
        files = sorted(self._folder.rglob("*.safetensors"))
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": f"distgnn {__version__}",
            "seed": seed,
            "num_nodes": self._node_bounds[-1],
            "num_edges": self._edge_bounds[-1],
            "node_bounds": self._node_bounds,
            "edge_bounds": self._edge_bounds,
            "files": {
                path.relative_to(self._folder).as_posix(): {"size": path.stat().st_size, "crc32": checksum_of(path)}
                for path in files
            },
            "report": {name: value for name, value in report.as_dict().items() if name != "folder"},
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        # A partition that has the name steps aside first, and is removed afterwards.
        old = self._folder.with_suffix(".replaced")
        if self._out.exists():
            self._out.rename(old)
        self._folder.rename(self._out)
        shutil.rmtree(old, ignore_errors=True)
        return report


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is there already, unless it is a partition that may be replaced.

    Raises:
        ConfigError: It is there.
    """
    if not out.exists():
        _clear_unfinished(out)
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise ConfigError(f"{out} is there already; choose another folder, or replace it (--overwrite)")
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} is there and is no partition, so it is not overwritten; choose another folder")
    _clear_unfinished(out)  # not before: a refusal changes nothing


def unfinished_folder(out: Path) -> Path:
    """Name the folder that is written before ``out`` gets its name, by this host and process."""
    return out.with_name(f".{out.name}.{socket.gethostname()}.{os.getpid()}.unfinished")


def _clear_unfinished(out: Path) -> None:
    """Remove what killed processes of this host have left beside ``out``; what they were to replace is put back."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.{glob.escape(socket.gethostname())}.*"):
        words = folder.name.split(".")
        if (
            words[-1] not in {"unfinished", "replaced"}
            or not words[-2].isdecimal()
            or psutil.pid_exists(int(words[-2]))
        ):
            continue
        if words[-1] == "replaced" and not out.exists():
            folder.rename(out)
        else:
            shutil.rmtree(folder, ignore_errors=True)
