"""Reading of a checkpoint: shared state, and a rank's rows."""

from __future__ import annotations

import itertools
import math
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import torch

from distgnn.checkpoint.former import handles_in, renumber
from distgnn.checkpoint.manifest import IDS, Manifest, dtype_of, file_name, read_manifest, shape_of, stored_name
from distgnn.checkpoint.placed import import_placed
from distgnn.checkpoint.plain_state import decode, tensor_names
from distgnn.checkpoint.random_state import set_random_state
from distgnn.checkpoint.tensors import NAMES, TensorReader, as_bytes
from distgnn.errors import CheckpointFormatError, CheckpointNotFoundError, DataFormatError
from distgnn.optim.table_state import tables_left_out
from distgnn.storage.capabilities import order_of
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from distgnn.checkpoint.checkpoint import Stateful
    from distgnn.nn.activations import StoredActivation
    from distgnn.storage.capabilities import SupportsCheckpoint
    from distgnn.train.session import Session

KEPT = "kept layer outputs"  # beside the parts, what goes with the stores of layer outputs
_Piece = TypeVar("_Piece")


class CheckpointReader:
    """A checkpoint while a rank reads it.

    Attributes:
        manifest: Its manifest, after :meth:`prepare`.
    """

    manifest: Manifest

    def __init__(self, path: Path, session: Session) -> None:
        self._path, self._session = path, session
        self._states: dict[str, Any] = {}
        self._kept: Any = {}
        self._random: object = None
        self._is_part = False

    def prepare(self, parts: Mapping[str, Stateful], *, is_part: bool = False) -> Iterator[int]:
        """Read what is no store.

        Args:
            parts: What is loaded.
            is_part: Whether it is known that more may have been saved.
        """
        try:
            yield from self._prepare(parts, is_part=is_part)
        except RecursionError as error:
            raise self._damaged(f"the manifest of {self._path} is nested too deeply") from error

    def _prepare(self, parts: Mapping[str, Stateful], *, is_part: bool) -> Iterator[int]:
        self.manifest = manifest = read_manifest(self._path)
        for rank in range(len(manifest.files)):
            self._open(rank).__exit__(None, None, None)
        saved = _pairs(manifest.state)
        names = [name for name in saved if name != KEPT]
        if not parts.keys() <= saved.keys():
            raise self._other(f"it has the parts {', '.join(names)}", ", ".join(parts))
        more = [name for name in names if name not in parts]
        self._is_part = bool(more)
        if more and not is_part:
            text = f"checkpoint {self._path} has {', '.join(more)} too, which is not loaded: say only={list(parts)}"
            warnings.warn(text, stacklevel=2)
        chosen = {"items": [[name, state] for name, state in saved.items() if name not in more]}
        states = decode(chosen, self._tensors(0, chosen))
        self._states = states if isinstance(states, dict) else {}
        self._kept = self._states.pop(KEPT, {})
        if not more and not is_part:
            source = self._session.rank if len(manifest.files) == self._session.world_size else 0
            numbers = manifest.files[source].random
            self._random = decode(numbers, self._tensors(source, numbers))
        for name, part in parts.items():
            if isinstance(part, torch.nn.Module):
                with tables_left_out():
                    own, saved = _kinds_of(part.state_dict()), _kinds_of(self._states[name])
                if own != saved:
                    differ = sorted(key for key in own.keys() | saved.keys() if own.get(key) != saved.get(key))
                    raise self._other(
                        f"{name} has {differ[0]!r} as {saved.get(differ[0], 'nothing')}",
                        str(own.get(differ[0], "nothing")),
                    )
        yield 0

    def check_stores(self, stores: Mapping[str, SupportsCheckpoint]) -> Iterator[int]:
        """Compare the stores with those that were saved; they may have more rows."""
        saved = {name: (one.dtype, one.shape) for name, one in self.manifest.stores.items()}
        own = {name: (dtype_of(name, store), shape_of(store)) for name, store in stores.items()}
        all_there = own.keys() <= saved.keys() if self._is_part else own.keys() == saved.keys()
        fits = all_there and all(
            (saved[name][0], saved[name][1][1:]) == (dtype, shape[1:]) and saved[name][1][0] <= shape[0]
            for name, (dtype, shape) in own.items()
        )
        if not fits:
            raise self._other(f"it has the stores {saved}", str(own))
        yield 0

    def read_stores(self, stores: Mapping[str, SupportsCheckpoint]) -> Iterator[int]:
        """Read the rows that this rank owns, from whichever files they are in."""
        for name, store in stores.items():
            if not self._stands_as_saved(name, store):
                yield from import_placed(
                    store,
                    self.manifest.stores[name].shape[0],
                    partial(self._rows_by_id, name),
                    most_bytes=psutil.virtual_memory().available // (4 * self._session.world_size),
                )
                continue
            keys = list(self.manifest.stores[name].tensors(name, 0))
            for rank, file in enumerate(self.manifest.files):
                start, stop = file.stores[name]
                first, last = max(start, store.own_rows.start), min(stop, store.own_rows.stop)
                for begin, block in self._blocks(rank, keys, first - start, last - start):
                    rows = {key.removeprefix(stored_name(name, "")): one for key, one in block.items()}
                    rows.pop(IDS, None)
                    store.import_rows(start + begin, rows)
                    yield sum(one.nbytes for one in rows.values())

    def _stands_as_saved(self, name: str, store: SupportsCheckpoint) -> bool:
        """Return whether the rows of this rank were saved in the order that they have."""
        placed, book, key = self.manifest.stores[name].placed, order_of(store), stored_name(name, IDS)
        if not placed or book is None:
            return not placed and book is None
        for rank, file in enumerate(self.manifest.files):
            start, stop = file.stores[name]
            first, last = max(start, store.own_rows.start), min(stop, store.own_rows.stop)
            for begin, block in self._blocks(rank, [key], first - start, last - start):
                if not torch.equal(block[key], book.ids(start + begin, start + begin + block[key].numel())):
                    return False
        return True

    def _rows_by_id(self, name: str) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Read all rows of a store: yield some ids ``[K]``, and the rows and state of each, until the next."""
        saved = self.manifest.stores[name]
        keys = list(saved.tensors(name, 0))
        for rank, file in enumerate(self.manifest.files):
            start, stop = file.stores[name]
            for begin, block in self._blocks(rank, keys, 0, stop - start):
                rows = {key.removeprefix(stored_name(name, "")): one for key, one in block.items()}
                ids = rows.pop(IDS, None)
                if ids is None:
                    ids = torch.arange(start + begin, start + begin + rows["rows"].size(0))
                if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < saved.shape[0]:
                    raise self._damaged(f"{self._path / file_name(rank)} has rows of {name!r} beyond its ids")
                yield ids, rows

    def load_parts(self, parts: Mapping[str, Stateful], activations: Mapping[str, StoredActivation]) -> Iterator[int]:
        """Give each part its state, what keeps layer outputs how far it was, and this process its random numbers."""
        loads: list[tuple[str, Callable[[Any], object], Any]] = [
            *((name, part.load_state_dict, self._states[name]) for name, part in parts.items()),
            *((name, layer.go_on, self._kept.get(name)) for name, layer in activations.items()),
        ]
        handles = handles_in(parts.values())
        for name, load, state in loads:
            try:
                part = parts.get(name)
                own = renumber(state, part, handles) if isinstance(part, torch.optim.Optimizer) else state
                with tables_left_out():
                    load(own)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointFormatError(
                    f"checkpoint {self._path} does not fit: {name} cannot take its state ({error!r}); load it into "
                    "what it was saved from"
                ) from error
            yield 0
        if self._random is not None:
            set_random_state(self._random)

    def _open(self, rank: int) -> TensorReader:
        file, path = self.manifest.files[rank], self._path / file_name(rank)
        try:
            return TensorReader(path, {name: tensor.layout for name, tensor in file.tensors.items()})
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(f"{path} is missing; copy the whole folder again") from error
        except DataFormatError as error:
            raise self._damaged(str(error)) from error

    def _tensors(self, rank: int, state: object) -> dict[str, Tensor]:
        """Read the tensors that a state refers to."""
        found: dict[str, Tensor] = {}
        for name in tensor_names(state):
            saved = self.manifest.files[rank].tensors.get(name)
            if saved is None:
                raise self._damaged(f"{self._path / file_name(rank)} has no tensor {name!r}")
            self._check_memory(rank, [saved.shape], [saved.layout[0]], repr(name))
            whole = torch.empty(saved.shape, dtype=saved.layout[0])
            for begin, block in self._blocks(rank, [name], 0, saved.shape[0]):
                whole[begin : begin + block[name].size(0)] = block[name]
            found[name] = whole
        return found

    def _blocks(self, rank: int, keys: list[str], first: int, last: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Read rows ``first`` to ``last`` of some tensors of a file, and check the blocks that they are in.

        A block is read while the one before is checked and used; two places in memory take turns.

        Yields:
            The first of some rows, and those of each tensor, until the next are asked for.
        """
        some = self.manifest.files[rank].tensors[keys[0]]
        starts = range(first // some.block * some.block, last, some.block) if first < last else ()
        with self._open(rank) as reader:
            places = itertools.cycle([self._place(rank, keys), self._place(rank, keys)])
            work = ((start, self._read(reader, start, next(places))) for start in starts)
            with closing(_ahead(work)) as blocks:
                for start, block in blocks:
                    self._check(rank, start, block)
                    wanted = slice(max(start, first) - start, last - start)
                    yield max(start, first), {key: rows[wanted] for key, rows in block.items()}

    def _place(self, rank: int, keys: list[str]) -> dict[str, Tensor]:
        """Make room for one block of each tensor."""
        saved = {key: self.manifest.files[rank].tensors[key] for key in keys}
        shapes = [(min(one.block, one.shape[0]), *one.shape[1:]) for one in saved.values()]
        dtypes = [one.layout[0] for one in saved.values()]
        self._check_memory(rank, shapes, dtypes, f"a block of {keys[0]!r}")
        return {key: torch.empty(shape, dtype=dtype) for key, shape, dtype in zip(saved, shapes, dtypes, strict=True)}

    def _check_memory(
        self, rank: int, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype], what: str
    ) -> None:
        """Refuse what is larger than the memory that is free, before any of it is taken."""
        size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True))
        try:
            check_memory(f"{what} of {self._path / file_name(rank)}", size)
        except DataFormatError as error:
            raise self._damaged(str(error)) from error

    def _read(self, reader: TensorReader, first: int, place: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read one block of each tensor to where there is room for it."""
        try:
            return {key: reader.read(key, first, rows) for key, rows in place.items()}
        except DataFormatError as error:
            raise self._damaged(str(error)) from error

    def _check(self, rank: int, first: int, block: Mapping[str, Tensor]) -> None:
        """Compare one block of each tensor with what was written."""
        for name, rows in block.items():
            tensor = self.manifest.files[rank].tensors[name]
            if zlib.crc32(as_bytes(rows)) != tensor.checksums[first // tensor.block]:
                raise self._damaged(
                    f"{self._path / file_name(rank)} was changed after it was written: rows {first} to "
                    f"{first + rows.size(0)} of {name!r} differ"
                )

    @staticmethod
    def _damaged(what: str) -> CheckpointFormatError:
        return CheckpointFormatError(f"{what}; load another checkpoint, or copy this one again from where it is whole")

    def _other(self, saved: str, own: str) -> CheckpointFormatError:
        return CheckpointFormatError(
            f"checkpoint {self._path} is of another job: {saved}, and this job has {own}; load it into the model and "
            "the stores that it was saved from"
        )


def _pairs(state: Any) -> dict[str, Any]:
    """Return the encoded states of the parts, by name."""
    pairs = state.get("items") if isinstance(state, dict) else None
    found = pairs if isinstance(pairs, list) else []
    return {str(pair[0]): pair[1] for pair in found if isinstance(pair, list) and len(pair) == 2}


def _ahead(work: Iterator[_Piece]) -> Generator[_Piece, None, None]:
    """Let a thread do the next piece of work while the last is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, work, None)
        while (piece := coming.result()) is not None:
            coming = thread.submit(next, work, None)
            yield piece


def _kinds_of(state: object) -> dict[str, str]:
    """Say of the tensors of a module what they are; what is no state of one has none."""
    found = state if isinstance(state, dict) else {}
    tensors = {str(key): one for key, one in found.items() if isinstance(one, torch.Tensor)}
    return {key: f"{NAMES.get(one.dtype, str(one.dtype))}{list(one.shape)}" for key, one in tensors.items()}
