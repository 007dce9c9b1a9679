"""A checkpoint's contents, from its manifest and headers alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distgnn.checkpoint.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    SavedStore,
    file_name,
    read_any_manifest,
    stored_name,
)
from distgnn.checkpoint.tensors import DTYPES, FileSummary, TensorReader
from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from distgnn.checkpoint.manifest import SavedFile


@dataclass(frozen=True)
class RuleSummary:
    """The state of one class of rules beside a store's rows.

    Args:
        steps: How often it was applied.
        widths: Columns of each of its tensors.
        size: Their bytes.
    """

    steps: int
    widths: dict[str, int]
    size: int


@dataclass(frozen=True)
class StoreSummary:
    """A store.

    Args:
        dtype: Type of its rows.
        shape: Of the whole store.
        size: Bytes of its rows.
        rules: The state beside them, by the rule's class.
        rows_by_rank: The first row in each rank's file, and the row after its last.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    rules: dict[str, RuleSummary]
    rows_by_rank: list[tuple[int, int]]


@dataclass(frozen=True)
class PartSummary:
    """A part that is no store, as a model.

    Args:
        tensors: Number of its tensors.
        size: Their bytes.
    """

    tensors: int
    size: int


@dataclass(frozen=True)
class CheckpointSummary:
    """A checkpoint.

    Args:
        folder: Where it is.
        format: Its format and version.
        written_by: What wrote it.
        checksums: How damage is found.
        stores: Its stores, by name.
        parts: What else is in it, by name.
        files: The file of each rank, by name.
        size: Bytes of all files.
        config: Options of the run that wrote it; None where none are told.
        last_epoch: What the run's last whole epoch measured; None where it is not told.
        notes: What another writer noted.
    """

    folder: str
    format: str
    written_by: str
    checksums: str
    stores: dict[str, StoreSummary]
    parts: dict[str, PartSummary]
    files: dict[str, FileSummary]
    size: int
    config: dict[str, Any] | None
    last_epoch: dict[str, Any] | None
    notes: object

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"kind": "checkpoint", **asdict(self), "ranks": len(self.files)}


def summarize_checkpoint(folder: Path) -> CheckpointSummary:
    """Look into a checkpoint.

    Raises:
        CheckpointNotFoundError: There is none.
        CheckpointFormatError: Its manifest is damaged, or of a newer version.
    """
    version, manifest = read_any_manifest(folder)
    files = {file_name(rank): _look(folder / file_name(rank), file) for rank, file in enumerate(manifest.files)}
    config, last_epoch, notes = None, None, manifest.notes
    if isinstance(notes, dict) and notes.keys() - {"kind"} == {"config", "steps", "history"}:  # as distgnn train's
        epochs = [epoch for trial in notes["history"] for epoch in trial]
        config, last_epoch, notes = notes["config"], epochs[-1] if epochs else None, None
    return CheckpointSummary(
        folder=str(folder),
        format=f"{FORMAT}, version {version}",
        written_by=manifest.written_by,
        checksums="SHA-256 of the manifest, CRC-32 of each block of rows (compared when it is loaded)",
        stores={name: _store(name, store, manifest) for name, store in manifest.stores.items()},
        parts=_parts(manifest),
        files=files,
        size=sum(file.size for file in files.values()) + (folder / MANIFEST).stat().st_size,
        config=config,
        last_epoch=last_epoch,
        notes=notes,
    )


def _look(path: Path, file: SavedFile) -> FileSummary:
    """Compare a file's size and header with what was written."""
    try:
        with TensorReader(path, {name: tensor.layout for name, tensor in file.tensors.items()}):
            return FileSummary(path.stat().st_size)
    except FileNotFoundError:
        return FileSummary(0, "missing")
    except (DataFormatError, OSError) as error:
        return FileSummary(path.lstat().st_size, str(error).removeprefix(f"{path} "))


def _store(name: str, store: SavedStore, manifest: Manifest) -> StoreSummary:
    sizes = {key: _size(dtype, shape) for key, (dtype, shape) in store.tensors(name, store.shape[0]).items()}
    rules = {
        rule: RuleSummary(
            kept.steps,
            {key: spec.width for key, spec in kept.tensors.items()},
            sum(sizes[stored_name(name, f"{rule}/{key}")] for key in kept.tensors),
        )
        for rule, kept in store.rules.items()
    }
    rows_by_rank = [file.stores[name] for file in manifest.files]
    return StoreSummary(store.dtype, store.shape, sizes[stored_name(name, "rows")], rules, rows_by_rank)


def _parts(manifest: Manifest) -> dict[str, PartSummary]:
    """Sum up the tensors ``state/PART/...``, and those of the ranks' random numbers, ``random/...``."""
    sizes: dict[str, list[int]] = {}
    for file in manifest.files:
        for name, tensor in file.tensors.items():
            kind, _, rest = name.partition("/")
            if kind != "stores":
                part = rest.partition("/")[0] if kind == "state" else "random numbers"
                sizes.setdefault(part, []).append(_size(tensor.dtype, tensor.shape))
    return {part: PartSummary(len(found), sum(found)) for part, found in sizes.items()}


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return DTYPES[dtype].itemsize * math.prod(shape)
