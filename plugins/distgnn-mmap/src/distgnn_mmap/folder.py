"""A folder of tables that outlive the process, and that are after a crash as they were at the last flush."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

import distgnn
from distgnn_mmap.journal import Journal, undo
from distgnn_mmap.rows import MappedRows

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable
    from pathlib import Path

    from distgnn_mmap.embeddings import MmapEmbeddingStore

_FORMAT = 1


class Folder:
    """Holds ``manifest.json``, which says what there was at the last flush, and ``tables/NAME/`` with rows and state.

    A flush brings everything to the disk and then replaces the manifest by a new one, at one stroke for all tables.
    What changed afterwards is undone when the folder is opened, unless another flush came.

    Args:
        path: Made if need be.
        found: Counts rows that were in memory, for :class:`~distgnn_mmap.rows.MappedRows`.

    Raises:
        BackendError: Another backend has it open, or a newer version wrote it.
    """

    def __init__(self, path: Path, found: Counter[str]) -> None:
        self._path, self._found = path, found
        (path / "tables").mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            lock = stack.enter_context((path / "lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise distgnn.BackendError(
                    f"the mmap backend cannot open {path}: another process, or another backend of this one, has it open"
                ) from None
            self._manifest = self._read()
            self._recover()
            self._lock = stack.pop_all()

    def _read(self) -> dict[str, Any]:
        file = self._path / "manifest.json"
        if not file.exists():
            return {"format": _FORMAT, "generation": 0, "tables": {}}
        manifest: dict[str, Any] = json.loads(file.read_text())
        if manifest["format"] != _FORMAT:
            raise distgnn.BackendError(
                f"{file} is of format {manifest['format']}, this distgnn-mmap reads {_FORMAT}; install a newer one"
            )
        return manifest

    def _recover(self) -> None:
        """Undo what came after the last flush: new tables, new state, and changed rows."""
        for folder in (self._path / "tables").iterdir():
            if folder.name not in self._manifest["tables"]:
                shutil.rmtree(folder)
                continue
            files = _files(self._manifest["tables"][folder.name]["rules"])
            for path in folder.iterdir():
                if path.name.removesuffix(".journal") not in files:
                    path.unlink()
                elif path.name.endswith(".journal"):
                    undo(path, path.with_name(path.name.removesuffix(".journal")), self._manifest["generation"])

    def spec(self, name: str) -> distgnn.EmbeddingSpec | None:
        """Say what the table of that name was opened as, if there is one."""
        if name not in self._manifest["tables"]:
            return None
        kept = self._manifest["tables"][name]["spec"]
        return distgnn.EmbeddingSpec(**{**kept, "dtype": getattr(torch, kept["dtype"])})

    def rules(self, name: str) -> dict[str, distgnn.RuleState]:
        """Give the steps and the state of each rule at the last flush."""
        kept: dict[str, Any] = self._manifest["tables"].get(name, {"rules": {}})["rules"]
        return {
            rule: distgnn.RuleState(
                one["step"], {each: distgnn.StateSpec(*spec) for each, spec in one["state"].items()}
            )
            for rule, one in kept.items()
        }

    def rows(self, spec: distgnn.EmbeddingSpec, file: str, width: int, dtype: torch.dtype) -> MappedRows:
        """Open a file of a table, or make it."""
        folder = self._path / "tables" / spec.name
        folder.mkdir(exist_ok=True)
        journal = Journal(folder / f"{file}.journal", spec.num_embeddings, self._manifest["generation"])
        descriptor = os.open(folder / file, os.O_RDWR | os.O_CREAT, 0o644)
        opened = os.fdopen(descriptor, "r+b")
        rows = MappedRows(spec.num_embeddings, width, dtype, opened, self._found, journal=journal)
        _sync(folder)
        return rows

    def flush(self, tables: Iterable[MmapEmbeddingStore]) -> None:
        """Make everything so far what a crash leaves."""
        tables = list(tables)
        for table in tables:
            for rows in table.files():
                rows.sync()
        described = {
            table.spec.name: {
                "spec": _kept(table.spec),
                "rules": {
                    rule: {"step": steps, "state": tensors} for rule, (steps, tensors) in table.rule_states().items()
                },
            }
            for table in tables
        }
        generation = self._manifest["generation"] + 1
        self._replace({**self._manifest, "generation": generation, "tables": {**self._manifest["tables"], **described}})
        for table in tables:
            for rows in table.files():
                assert rows.journal is not None
                rows.journal.clear(generation)

    def drop(self, name: str) -> None:
        """Remove a table."""
        tables = {other: kept for other, kept in self._manifest["tables"].items() if other != name}
        self._replace({**self._manifest, "tables": tables})
        shutil.rmtree(self._path / "tables" / name)

    def close(self) -> None:
        """Let others open it."""
        self._lock.close()

    def _replace(self, manifest: dict[str, Any]) -> None:
        text = json.dumps(manifest, indent=2)
        new = self._path / "manifest.json.new"
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _sync(self._path / "tables")
        new.replace(self._path / "manifest.json")
        _sync(self._path)
        self._manifest = json.loads(text)  # a copy, which no store changes


def _kept(spec: distgnn.EmbeddingSpec) -> dict[str, Any]:
    """Return what outlives the process; on which rank rows would be is of no account here."""
    fields = {name: value for name, value in vars(spec).items() if name != "partition"}
    return {**fields, "dtype": str(spec.dtype).removeprefix("torch.")}


def _files(rules: dict[str, Any]) -> set[str]:
    return {"rows", *(f"{rule}.{name}" for rule, kept in rules.items() for name in kept["state"])}


def _sync(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
