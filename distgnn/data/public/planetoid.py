"""Planetoid's raw files, read without running their pickles."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, index_to_mask, remove_self_loops

from distgnn.data.tables.files import check_file, read_table
from distgnn.errors import DataFormatError
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

PLANETOID_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_VALIDATION = 500  # nodes behind those of training


def read_planetoid(folder: Path, name: str) -> Data:
    """Read a data set with its public split, as PyG's ``Planetoid`` does.

    Args:
        folder: With the raw files.
        name: ``"Cora"``, ``"CiteSeer"`` or ``"PubMed"``.

    Raises:
        DataFormatError: A file is not what it should be; the text names it.
    """
    prefix = f"ind.{name.lower()}"
    x, tx, allx, y, ty, ally = (_matrix(folder / f"{prefix}.{part}") for part in PLANETOID_PARTS[:6])
    neighbors = _neighbors(folder / f"{prefix}.graph")
    path = folder / f"{prefix}.test.index"
    test = _test_nodes(path)
    if x.size(1) != allx.size(1) or tx.size(1) != allx.size(1) or len({y.size(1), ty.size(1), ally.size(1)}) != 1:
        raise DataFormatError(f"{folder}: the files of {name} do not go together: rows of unequal length")
    ordered, first = test.sort().values, int(test.min())
    # Nodes of CiteSeer that no file has are rows of zeros.
    rows = int(test.max()) - first + 1
    if (
        test.numel() != len(tx)
        or len(ty) != len(tx)
        or len(ally) != len(allx)
        or first != len(allx)
        or rows > 2 * len(tx)
    ):
        raise DataFormatError(f"{folder}: the files of {name} do not go together: {path.name} names other nodes")
    filled = [torch.zeros(rows, part.size(1)) for part in (tx, ty)]
    for whole, part in zip(filled, (tx, ty), strict=True):
        whole[ordered - first] = part
    x, labels = torch.cat([allx, filled[0]]), torch.cat([ally, filled[1]]).max(dim=1)[1]
    x[test], labels[test] = x[ordered], labels[ordered]
    count = len(labels)
    if neighbors.numel() and (int(neighbors.min()) < 0 or int(neighbors.max()) >= count):
        raise DataFormatError(f"{folder}: {prefix}.graph names nodes that the other files have not")
    edge_index = coalesce(remove_self_loops(neighbors)[0], num_nodes=count, sort_by_row=False)
    return Data(
        x=x,
        edge_index=edge_index,
        y=labels,
        train_mask=index_to_mask(torch.arange(len(y)), size=count),
        val_mask=index_to_mask(torch.arange(len(y), min(len(y) + _VALIDATION, count)), size=count),
        test_mask=index_to_mask(test, size=count),
    )


def load_plain(path: Path) -> Any:
    """Load a pickle of arrays, sparse matrices, numbers, lists and dictionaries.

    Raises:
        DataFormatError: It is damaged, or names anything else, which is not looked up.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DataFormatError(f"{path} cannot be read ({error}); take it again from where it came") from error


class _Dtype:
    """What a pickled type of numbers holds."""

    def __init__(self, code: str, *_options: object) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def dtype(self) -> np.dtype[Any]:
        found = np.dtype(self.code)
        if found.kind not in "iufb":
            raise ValueError(f"an array of {self.code!r}, which are no numbers")
        return found.newbyteorder(self.order)  # type: ignore[arg-type]  # NumPy refuses what is none


class _Array:
    """What a pickled array holds, before it is one."""

    def __init__(self, *_ignored: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, dtype, is_fortran, content = self.state
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        values = np.frombuffer(raw, dtype.dtype())
        return values.astype(values.dtype.newbyteorder("=")).reshape(shape, order="F" if is_fortran else "C")


class _Rows:
    """What a pickled sparse matrix holds, before it is one."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def matrix(self) -> csr_matrix:
        shape = self.state["_shape"] if "_shape" in self.state else self.state["shape"]
        arrays = tuple(self.state[name].array() for name in ("data", "indices", "indptr"))
        found = csr_matrix(arrays, shape=tuple(map(int, shape)))
        found.check_format(full_check=True)
        return found


class _PlainUnpickler(pickle.Unpickler):
    """Finds stand-ins for the few names that such files hold, and nothing else: no name is imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is no array and no matrix, and is not run"
            ) from None


def _encoded(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")


def _dictionary(*_factory: object) -> dict[Any, Any]:
    return {}


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
    ("scipy.sparse.csr", "csr_matrix"): _Rows,
    ("scipy.sparse._csr", "csr_matrix"): _Rows,
    ("collections", "defaultdict"): _dictionary,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
}


def _matrix(path: Path) -> Tensor:
    found = load_plain(path)
    try:
        if isinstance(found, _Rows):
            sparse = found.matrix()
            check_memory(f"{path}, unpacked,", 8 * sparse.shape[0] * sparse.shape[1])
            matrix = sparse.toarray()
        elif isinstance(found, _Array):
            matrix = found.array()
        else:
            raise DataFormatError(f"{path} holds {type(found).__name__}, not a matrix of numbers")
        if matrix.ndim != 2 or not matrix.size:
            raise DataFormatError(f"{path} holds an array of shape {list(matrix.shape)}, not a matrix")
        return torch.from_numpy(np.ascontiguousarray(matrix)).float()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(f"{path} holds a damaged matrix ({error}); take it again from where it came") from error


def _neighbors(path: Path) -> Tensor:
    found = load_plain(path)
    if not isinstance(found, dict):
        raise DataFormatError(f"{path} holds {type(found).__name__}, not a dictionary of neighbors")
    try:
        pairs = [(int(node), int(other)) for node, others in found.items() for other in others]
        return torch.tensor(pairs, dtype=torch.int64).view(-1, 2).t().contiguous()
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise DataFormatError(f"{path} holds neighbors that are no lists of ids ({error})") from error


def _test_nodes(path: Path) -> Tensor:
    table = read_table(path, key="test", suffix=".txt")
    numbers = table.values.flatten()
    table.refuse(~((numbers >= 0) & (numbers < 2**31) & (numbers == numbers.floor())), numbers, "is no id of a node")
    return numbers.long()
