"""Saving and loading all that a training job needs to go on.

Every rank writes its own rows of every store, and their state, into a file of its own, a block at a time; rank 0 writes
what the ranks have in common as well, and last of all the manifest. Until then the folder has a hidden name. So a crash
leaves what was there before, and nothing new. Any number of ranks, on any backend that
:class:`~distgnn.SupportsCheckpoint`, can load it: each reads the rows that it owns, wherever they are, by whichever
partition they were placed and are placed now.

Nothing in it is a pickle, and what is read is compared, not trusted: reading cannot run code.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch

from distgnn.checkpoint.folder import draft_of, sync_folder
from distgnn.checkpoint.manifest import (
    IDS,
    Manifest,
    SavedFile,
    SavedStore,
    dtype_of,
    file_name,
    parse_file,
    read_manifest,
    shape_of,
    stored_name,
    write_manifest,
)
from distgnn.checkpoint.plain_state import encode
from distgnn.checkpoint.random_state import random_state
from distgnn.checkpoint.reader import KEPT, CheckpointReader
from distgnn.checkpoint.tensors import BLOCK_BYTES, DTYPES
from distgnn.checkpoint.together import together
from distgnn.checkpoint.writer import Table, write_tables
from distgnn.errors import CheckpointError, CheckpointWriteError
from distgnn.nn.activations import StoredActivation
from distgnn.nn.embedding import StoredEmbedding
from distgnn.optim.table_state import tables_left_out
from distgnn.storage.capabilities import SupportsCheckpoint, order_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from torch import Tensor

    from distgnn.storage.protocols import EmbeddingStore, TensorStore
    from distgnn.train.session import Session

    Report = Callable[[int], None]

_SAME: Mapping[str, str] = MappingProxyType({})


class Stateful(Protocol):
    """An object with a state: module, optimizer, scheduler or your own."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return tensors, numbers, texts, lists and dictionaries of these."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Take what :meth:`state_dict` gave."""
        ...


class Checkpoint:
    """Saving and loading of a training job, collectively.

    Each rank keeps the state of its random number generators: torch's, of the CPU and of CUDA devices, NumPy's and
    Python's. On another number of ranks, all of them take that of rank 0.

    Args:
        session: The ranks.
        parts: What to save, by name; the same on every rank. The stored embeddings of modules among them are saved too,
            and the layer outputs that later steps read: histories and stale halo rows.
        stores: More stores to save, by name.
        report: Is told the bytes of this rank that are done, piece by piece.
        block_bytes: How much of a table is held in memory while it is written, and read again.
    """

    def __init__(
        self,
        session: Session,
        parts: Mapping[str, Stateful],
        stores: Mapping[str, EmbeddingStore | TensorStore] | None = None,
        *,
        report: Report = lambda _count: None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._session = session
        self._block_bytes = block_bytes
        self._parts = dict(parts)
        self._more = dict(stores or {})
        self._report = report

    def save(self, path: str | Path, *, notes: object = None, with_state: bool = True) -> None:
        """Write a checkpoint.

        Args:
            path: Its folder, which all ranks see and which is not there yet.
            notes: What :func:`~distgnn.checkpoint.read_manifest` gives back; anything that JSON has.
            with_state: Save what only training needs too: the state of update rules, and layer outputs.

        Raises:
            CheckpointWriteError: It cannot be written, by whichever rank; nothing is there then.
            CheckpointError: A store cannot be saved, or a part has what cannot be saved.
            PeerLostError: A rank is gone or silent.
        """
        path = Path(path)
        draft, about = draft_of(path), f"writing of checkpoint {path}"
        stores = self._stores(with_state=with_state)
        main = self._session.is_main
        try:
            self._do(self._begin(path, draft) if main else iter(()), about)
            self._do(self._write(draft, stores, with_state), about)
            self._do(self._finish(path, draft, notes) if main else iter(()), about)
        except BaseException:
            if main:
                shutil.rmtree(draft, ignore_errors=True)
            raise

    def check(self) -> None:
        """Refuse stores that :meth:`save` would refuse; nothing is written.

        Raises:
            CheckpointError: A store cannot be saved.
        """
        self._stores()

    def load(
        self, path: str | Path, *, only: Collection[str] | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        """Read a checkpoint, written by any number of ranks on any backend.

        A store may have more rows than were saved: these stay as they are, with the initial state of the rules.

        What does not fit, and whatever is damaged in what is not a store, is an error before anything has changed. A
        damaged block of a store is one when it is met: the job has part of the rows then, and goes on by loading
        another checkpoint.

        Args:
            path: Its folder.
            only: The parts to load, as ``["model"]`` to predict; the random numbers of this process stay as they are
                then. None loads all that were saved, and warns where there are more than this has.
            names: What stores of other names here were saved as, by the name here.

        Raises:
            CheckpointNotFoundError: There is none, or a file of it is missing.
            CheckpointFormatError: It is damaged, of a newer version, or of another model or other stores.
            PeerLostError: A rank is gone or silent.
        """
        path = Path(path)
        about = f"reading of checkpoint {path}"
        loading = CheckpointReader(path, self._session)
        parts = self._parts if only is None else self._only(only)
        chosen = Checkpoint(self._session, parts, self._more if only is None else {})
        self._do(loading.prepare(parts, is_part=only is not None), about)
        stores = chosen._stores(loading.manifest, names or _SAME)
        self._do(loading.check_stores(stores), about)
        for name, store in stores.items():
            store.reset_rule_states(loading.manifest.stores[name].rules)
        self._do(loading.read_stores(stores), about)
        self._do(loading.load_parts(parts, chosen._activations()), about)

    def _only(self, names: Collection[str]) -> dict[str, Stateful]:
        if isinstance(names, str) or not set(names) <= self._parts.keys():
            raise CheckpointError(f"only={names!r} is to be a list of some of the parts {', '.join(self._parts)}")
        return {name: self._parts[name] for name in names}

    def _do(self, work: Iterator[int], about: str) -> None:
        together(self._session, work, about, self._report)

    def _stores(
        self, manifest: Manifest | None = None, names: Mapping[str, str] = _SAME, *, with_state: bool = True
    ) -> dict[str, SupportsCheckpoint]:
        """Find the stores by their names in files; those of modules get sizes from the manifest where they have none.

        Args:
            manifest: Of what is loaded; None when something is saved.
            names: What stores are called in files, by their own names, where it is something else.
            with_state: Whether layer outputs are among them.
        """
        tables = self._open_tables(manifest, names)
        activations = self._open_activations(manifest) if with_state else {}
        more = {names.get(name, name): store for name, store in self._more.items()}
        found = {**tables, **activations, **more}
        stores: dict[str, SupportsCheckpoint] = {}
        for name, store in found.items():
            if store is None:
                continue  # it has no size yet
            if not isinstance(store, SupportsCheckpoint):
                raise CheckpointError(
                    f"store {name!r} cannot be saved: its {type(store).__name__} has not the members of "
                    "SupportsCheckpoint; use a backend whose stores have them"
                )
            stores[name] = store
        return stores

    def _open_tables(
        self, manifest: Manifest | None, names: Mapping[str, str]
    ) -> dict[str, EmbeddingStore | TensorStore | None]:
        found: dict[str, EmbeddingStore | TensorStore | None] = {}
        for part in self._parts.values():
            for module in part.modules() if isinstance(part, torch.nn.Module) else ():
                if isinstance(module, StoredEmbedding):
                    name = names.get(module.name, module.name)
                    saved = manifest.stores.get(name) if manifest is not None else None
                    if module.num_embeddings is None and saved is not None:
                        module.set_num_embeddings(saved.shape[0])
                    if manifest is not None:
                        module.take_gradients()
                    found.setdefault(name, module.open_store())
        return found

    def _open_activations(self, manifest: Manifest | None) -> dict[str, TensorStore | None]:
        if manifest is None:
            return {name: layer.store for name, layer in self._activations().items() if layer.kept() is not None}
        found: dict[str, TensorStore | None] = {}
        for name, layer in self._activations().items():
            layer.close()
            saved = manifest.stores.get(name)
            if saved is not None:
                rows = torch.empty(0, *saved.shape[1:], dtype=DTYPES[saved.dtype])
                found[name] = layer.open_store(rows, saved.shape[0])
        return found

    def _activations(self) -> dict[str, StoredActivation]:
        """Find the modules that keep layer outputs, by the name of the part and their path in it."""
        return {
            f"{name}.{path}": module
            for name, part in self._parts.items()
            for path, module in (part.named_modules() if isinstance(part, torch.nn.Module) else ())
            if isinstance(module, StoredActivation)
        }

    @staticmethod
    def _begin(path: Path, draft: Path) -> Iterator[int]:
        if path.exists() or path.is_symlink():
            raise CheckpointWriteError(f"{path} is there already; choose another name, or remove it")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield 0

    def _write(self, draft: Path, stores: Mapping[str, SupportsCheckpoint], with_state: bool) -> Iterator[int]:
        """Write this rank's file, and beside it what the manifest will say of it."""
        rank = self._session.rank
        if not draft.is_dir():
            raise CheckpointWriteError(
                f"rank {rank} does not see the folder {draft} that rank 0 made: all ranks need the same file system"
            )
        whole: dict[str, Tensor] = {}
        with tables_left_out():
            parts = {name: part.state_dict() for name, part in self._parts.items()} if rank == 0 else None
        kept = {name: layer.kept() for name, layer in self._activations().items() if layer.kept() is not None}
        if parts is not None and kept and with_state:
            parts[KEPT] = kept
        state, numbers = encode(parts, whole, "state"), encode(random_state(), whole, "random")
        told = {
            name: SavedStore(
                dtype_of(name, store),
                shape_of(store),
                store.rule_states() if with_state else {},
                order_of(store) is not None,
            )
            for name, store in stores.items()
        }
        tables = [Table(range(rows.size(0)), partial(_some, key, rows)) for key, rows in whole.items()]
        tables += [Table(store.own_rows, partial(_export, name, store, with_state)) for name, store in stores.items()]
        tensors = yield from write_tables(draft / file_name(rank), tables, block_bytes=self._block_bytes)
        spans = {name: (store.own_rows.start, store.own_rows.stop) for name, store in stores.items()}
        about = {
            "file": asdict(SavedFile(spans, tensors, numbers)),
            "state": state,
            "stores": {name: asdict(store) for name, store in told.items()},
        }
        (draft / f"rank-{rank}.json").write_text(json.dumps(about))

    def _finish(self, path: Path, draft: Path, notes: object) -> Iterator[int]:
        """Put the manifest together, see to it that all is on the disk, and give the folder its name."""
        told = []
        for rank in range(self._session.world_size):
            beside = draft / f"rank-{rank}.json"
            told.append(json.loads(beside.read_text()))
            beside.unlink()
        files = tuple(parse_file(one["file"]) for one in told)
        stores = {name: SavedStore(**one) for name, one in told[0]["stores"].items()}
        write_manifest(draft, Manifest(told[0]["state"], stores, files, notes))
        read_manifest(draft)
        sync_folder(draft)
        draft.rename(path)
        sync_folder(path.parent)
        yield 0


def _some(name: str, rows: Tensor, first: int, last: int) -> dict[str, Tensor]:
    return {name: rows[first:last]}


def _export(name: str, store: SupportsCheckpoint, with_state: bool, first: int, last: int) -> dict[str, Tensor]:
    exported, book = store.export_rows(first, last).items(), order_of(store)
    found = {stored_name(name, key): rows for key, rows in exported if with_state or key == "rows"}
    return found if book is None else {**found, stored_name(name, IDS): book.ids(first, last)}
