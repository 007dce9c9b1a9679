"""The manifest of a checkpoint: files, and checksums of blocks.

A file's header and size follow from its tensors' types and shapes, so they are not read but compared. A checksum covers
a block of rows: whoever needs some rows of a file checks what it reads, and reads nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distgnn._version import __version__
from distgnn.checkpoint.tensors import DTYPES, NAMES
from distgnn.errors import CheckpointFormatError, CheckpointNotFoundError, DataFormatError
from distgnn.storage.capabilities import RuleState
from distgnn.storage.free_memory import check_memory
from distgnn.storage.protocols import StateSpec, TensorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from distgnn.storage.capabilities import SupportsCheckpoint

# The last version has stores whose rows are not in the order of their ids; what has none is written as the one before.
FORMAT, VERSION, UNPLACED_VERSION = "distgnn checkpoint", 3, 2
IDS = "ids"  # beside the rows of such a store, which are these
MANIFEST = "manifest.json"
_LARGEST = 2**62  # more bytes than a file has
_AGAIN = "load another checkpoint, or copy this one again from where it is whole"


@dataclass(frozen=True)
class SavedTensor:
    """A tensor in a file.

    Args:
        dtype: Its type, as safetensors calls it.
        shape: Its shape, ``[rows, ...]``.
        block: Rows that a checksum covers.
        checksums: CRC-32 of each block.
    """

    dtype: str
    shape: tuple[int, ...]
    block: int
    checksums: tuple[int, ...]

    @property
    def layout(self) -> tuple[torch.dtype, tuple[int, ...]]:
        """Its type and shape."""
        return DTYPES[self.dtype], self.shape


@dataclass(frozen=True)
class SavedFile:
    """The tensors and stores that one rank wrote.

    Args:
        stores: The first row of each store that is in it, and the row after its last.
        tensors: Its tensors, in the order of their names.
        random: The rank's random numbers, encoded.
    """

    stores: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, SavedTensor]
    random: object


@dataclass(frozen=True)
class SavedStore:
    """The description of a saved store.

    Args:
        dtype: Type of its rows.
        shape: Shape of the whole store.
        rules: The state beside its rows.
        placed: Whether its rows are by the places of a partition; files then have their ids.
    """

    dtype: str
    shape: tuple[int, ...]
    rules: Mapping[str, RuleState]
    placed: bool = False

    def tensors(self, name: str, rows: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the type and shape of each tensor that a file has for ``rows`` rows of it, by name there."""
        state = {
            f"{rule}/{key}": ("F32", (rows, spec.width))
            for rule, kept in self.rules.items()
            for key, spec in kept.tensors.items()
        }
        ids = {IDS: ("I64", (rows,))} if self.placed else {}
        found = {"rows": (self.dtype, (rows, *self.shape[1:])), **ids, **state}
        return {stored_name(name, key): layout for key, layout in found.items()}


@dataclass(frozen=True)
class Manifest:
    """A checkpoint.

    Args:
        state: What all ranks have in common, encoded.
        stores: The stores.
        files: What each rank wrote.
        notes: Whatever JSON the writer wants to find again.
        written_by: The distgnn that wrote it.
    """

    state: object
    stores: Mapping[str, SavedStore]
    files: tuple[SavedFile, ...]
    notes: object = None
    written_by: str = f"distgnn {__version__}"


def file_name(rank: int) -> str:
    """Return the name of a rank's file. The names of files are ours; a manifest has none."""
    return f"rank-{rank}.safetensors"


def stored_name(store: str, key: str) -> str:
    """Return the name in a file of what a store exports as ``key``."""
    return f"stores/{store}/{key}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, to the disk."""
    content = _canonical(asdict(manifest))
    version = VERSION if any(store.placed for store in manifest.stores.values()) else UNPLACED_VERSION
    head = {"format": FORMAT, "version": version, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    with (folder / MANIFEST).open("w") as file:
        file.write(f'{json.dumps(head)[:-1]}, "content": {content}}}\n')
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read it, and make sure that it is whole and means something.

    Raises:
        CheckpointNotFoundError: There is none.
        CheckpointFormatError: It was cut off or changed, or was written by a newer distgnn, or is something else.
    """
    return read_any_manifest(folder)[1]


def read_any_manifest(folder: Path) -> tuple[int, Manifest]:
    """Read it with the version of its format.

    Raises:
        CheckpointNotFoundError: There is none.
        CheckpointFormatError: It was cut off or changed, or was written by a newer distgnn, or is something else.
    """
    path = folder / MANIFEST
    if path.exists() and not path.is_file():
        raise CheckpointFormatError(f"{path} is no regular file; {_AGAIN}")
    try:
        check_memory(str(path), path.stat().st_size)
        found = json.loads(path.read_bytes())
    except DataFormatError as error:
        raise CheckpointFormatError(f"{error}; {_AGAIN}") from error
    except OSError as error:
        raise CheckpointNotFoundError(f"{folder} is no checkpoint: {path} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{path} is no JSON ({error}); {_AGAIN}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointFormatError(f"{path} is not the manifest of a {FORMAT}")
    version: Any = found.get("version")
    parse = _PARSERS.get(version) if type(version) is int else None
    if parse is None:
        raise CheckpointFormatError(
            f"{path} is of version {found.get('version')!r}, and this is distgnn {__version__}, which reads versions "
            f"{min(_PARSERS)} to {VERSION}: load it with the distgnn that wrote it, or a newer one"
        )
    try:
        content = found["content"]
        digest = hashlib.sha256(_canonical(content).encode()).hexdigest()
        if found["sha256"] != digest:
            raise CheckpointFormatError(f"{path} was changed after it was written: its checksum differs; {_AGAIN}")
        return version, parse(content)
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointFormatError):
            raise
        raise CheckpointFormatError(f"{path} lacks or spoils an entry ({error!r}); {_AGAIN}") from error


def parse_file(found: Any) -> SavedFile:
    """Make sense of what is told of a file."""
    return SavedFile(
        stores={str(name): (_count(first), _count(last)) for name, (first, last) in found["stores"].items()},
        tensors={str(name): _tensor(str(name), tensor) for name, tensor in sorted(found["tensors"].items())},
        random=found["random"],
    )


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _parse(content: Any) -> Manifest:
    stores = {}
    for name, found in content["stores"].items():
        rules = {
            str(rule): RuleState(
                _count(steps),
                {str(key): StateSpec(_count(width), float(initial)) for key, (width, initial) in kept.items()},
            )
            for rule, (steps, kept) in found["rules"].items()
        }
        stores[name] = SavedStore(_dtype(found["dtype"]), _shape(found["shape"]), rules, found.get("placed") is True)
    files = tuple(parse_file(found) for found in content["files"])
    for name, store in stores.items():
        end = 0
        for file in files:
            first, last = file.stores[name]
            needed = store.tensors(name, last - first)
            present = {key: (one.dtype, one.shape) for key, one in file.tensors.items() if key in needed}
            blocks = {file.tensors[key].block for key in present}
            if first != end or last < first or present != needed or len(blocks) != 1:
                raise ValueError(f"the rows of store {name!r} are not whole")
            end = last
        if end != store.shape[0]:
            raise ValueError(f"store {name!r} has {end} rows, not {store.shape[0]}")
    if not files:
        raise ValueError("there are no files")
    return Manifest(content["state"], stores, files, content["notes"], str(content["written_by"]))


# The first had no keys of rules, and their classes' names in their place.
_PARSERS: dict[int, Callable[[Any], Manifest]] = {1: _parse, UNPLACED_VERSION: _parse, VERSION: _parse}


def _tensor(name: str, found: Any) -> SavedTensor:
    checksums = tuple(map(_count, found["checksums"]))
    tensor = SavedTensor(_dtype(found["dtype"]), _shape(found["shape"]), _count(found["block"]), checksums)
    if not tensor.shape or tensor.block < 1 or len(checksums) != -(-tensor.shape[0] // tensor.block):
        raise ValueError(f"tensor {name!r} has {len(checksums)} checksums")
    return tensor


def _dtype(name: Any) -> str:
    if name not in DTYPES:
        raise ValueError(f"there is no type {name!r}")
    return str(name)


def _shape(sizes: Any) -> tuple[int, ...]:
    shape = tuple(map(_count, sizes))
    if math.prod(max(1, size) for size in shape) > _LARGEST:
        raise ValueError(f"no file holds a tensor of shape {list(shape)[:8]}")
    return shape


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < _LARGEST:
        raise ValueError(f"{number!r} is no count")
    return number


def shape_of(store: Any) -> tuple[int, ...]:
    """Return the shape of a whole store."""
    if isinstance(store, TensorStore):
        return tuple(store.shape)
    return (store.num_embeddings, store.embedding_dim)


def dtype_of(name: str, store: SupportsCheckpoint) -> str:
    """Return the type of a store's rows as it is called in files.

    Raises:
        CheckpointFormatError: Files do not have it.
    """
    first = store.own_rows.start
    dtype = store.export_rows(first, first)["rows"].dtype
    if dtype not in NAMES:
        raise CheckpointFormatError(f"store {name!r} cannot be saved: its rows are of {dtype}")
    return NAMES[dtype]
