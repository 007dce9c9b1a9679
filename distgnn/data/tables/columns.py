"""The columns of a table, by their names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from distgnn.data.tables.text import TextTable

# Words in the names of the columns where an edge begins and where it ends.
_ENDS = (
    ("source", "target"),
    ("source", "destination"),
    ("src", "dst"),
    ("src", "dest"),
    ("src", "tgt"),
    ("from", "to"),
    ("head", "tail"),
    ("sender", "receiver"),
    ("start", "end"),
    ("citing", "cited"),
    ("follower", "followee"),
    ("parent", "child"),
    ("subject", "object"),
    ("row", "col"),
    ("u", "v"),
    ("i", "j"),
    ("a", "b"),
    ("1", "2"),
    ("0", "1"),
)
_INDEX = {"", "unnamed0", "index", "idx", "rowid", "rownumber", "rownum", "rowindex", "level0", "edgeid", "edge", "eid"}
_IDS = {"node", "nodes", "nodeid", "nodeids", "nodeindex", "nodeidx", "nid", "vertex", "vertexid", "vid", "id", "ids"}
_LABELS = {"label", "labels", "y", "class", "classes", "target", "targets", "klass", "category"}
_WEIGHTS = {"weight", "weights", "value", "values", "score", "w", "count", "time", "timestamp", "date"}
_FILLERS = {"id", "ids", "node", "nodes", "vertex", "index", "idx"}
_SETS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing"},
}
SET_NAMES = {word: name for name, words in _SETS.items() for word in words}


def edge_columns(table: TextTable) -> tuple[int, int]:
    """Find the two columns with the ends of edges.

    Raises:
        DataFormatError: The header does not say which they are.
    """
    if table.header is None:
        return (0, 1) if table.width > 1 else (0, 0)
    names = [_words(name) for name in table.header]
    for narrow in (True, False):
        stripped = [words - _FILLERS or words if narrow else words for words in names]
        for pair in _ENDS:
            found = [
                [i for i, words in enumerate(stripped) if words == {end} or (not narrow and end in words)]
                for end in pair
            ]
            if len(found[0]) == len(found[1]) == 1 and found[0] != found[1]:
                return found[0][0], found[1][0]
    rest = [i for i in range(table.width) if not is_index(table.header[i])]
    if len(rest) == 2 and not any(names[i] & (_LABELS | _WEIGHTS) for i in rest):
        return rest[0], rest[1]
    raise DataFormatError(
        f"{table.path} does not say which columns are the ends of an edge: its header is {', '.join(table.header)}; "
        "call two of them source and target"
    )


def is_index(name: str) -> bool:
    """Say whether a column counts rows, as data frames write it."""
    return _flat(name) in _INDEX


def id_column(table: TextTable) -> int | None:
    """Find the column with the ids of nodes, by its name."""
    if table.header is None:
        return None
    flat = [_flat(name) for name in table.header]
    ids = [i for i, name in enumerate(flat) if name in _IDS]
    if len(ids) > 1:
        narrow = [i for i in ids if flat[i] not in {"id", "ids"}]
        ids = narrow or ids
    if len(ids) > 1:
        raise DataFormatError(
            f"{table.path} has several columns that may be the id of the node: "
            f"{', '.join(table.header[i] for i in ids)}; call one alone node"
        )
    if ids:
        return ids[0]
    first = next((i for i, name in enumerate(table.header) if not is_index(name)), None)
    if first is not None and re.search(r"(^|[^a-z])id$|[a-z]I[dD]$", table.header[first].strip(), re.ASCII):
        return first
    return None


def find_label(table: TextTable, asked: str | int | None) -> int:
    """Find the column with the label: the asked one, that whose name says so, or the only one that it can be.

    Raises:
        DataFormatError: There is no such column, or it is not clear.
    """
    if asked is not None:
        return table.column(asked)
    if table.header is None:
        if table.width > 2:
            raise DataFormatError(
                f"{table.path} has {table.width} columns and no header: which one is the label is not clear; "
                "write a header, or give label_column (--label-column)"
            )
        return table.width - 1
    taken = {id_column(table), *split_columns(table)}
    rest = [i for i in range(table.width) if i not in taken]
    if len(rest) > 1:
        rest = [i for i in rest if not is_index(table.header[i])]
    for narrow in (True, False):
        found = [i for i in rest if (words := _words(table.header[i])) & _LABELS and (not narrow or words <= _LABELS)]
        if len(found) == 1:
            return found[0]
    found = found or (rest[1:] if len(rest) > 1 and id_column(table) is None and not _has_index(table) else rest)
    if len(found) == 1:
        return found[0]
    raise DataFormatError(
        f"{table.path}: which column is the label is not clear; give label_column (--label-column), one of "
        f"{', '.join(table.header[i] for i in found or range(table.width))}"
    )


def split_columns(table: TextTable) -> dict[int, str]:
    """Find the columns that say which set a node is in, by number.

    Returns:
        ``"train"``, ``"val"`` or ``"test"`` for a mask, and ``"split"`` for a column with these words.
    """
    found = {}
    for i, name in enumerate(table.header or ()):
        words = _words(name) - {"mask", "is", "set", "in", "idx"}
        if _words(name) in ({"split"}, {"set"}, {"subset"}, {"data", "split"}):
            found[i] = "split"
        elif len(words) == 1 and (word := next(iter(words))) in SET_NAMES:
            found[i] = SET_NAMES[word]
    return found


def names_label(name: str) -> bool:
    """Say whether a column calls itself the label and nothing else."""
    return bool(words := _words(name)) and words <= _LABELS


def node_column(table: TextTable, label: int) -> int | None:
    """Find the column with the ids of nodes in a table of labels; None where its rows are in the order of the ids."""
    ids = id_column(table)
    if ids is not None and ids != label:
        return ids
    others = [i for i in range(table.width) if i != label and i not in split_columns(table)]
    if not others or (table.header is not None and label == 0 and not is_index(table.header[others[0]])):
        return None
    return others[0]


def names_of(table: TextTable, columns: Iterable[int]) -> str:
    """The names of columns, in a row."""
    return ", ".join(table.name(column) for column in columns)


def unread(table: TextTable, columns: Sequence[int]) -> list[int]:
    """The columns that are not read and hold more than the number of the row."""
    _, first = next(table.rows())
    return [
        i
        for i in range(table.width)
        if i not in columns and first[i].strip() and not (table.header and is_index(table.header[i]))
    ]


def _has_index(table: TextTable) -> bool:
    return any(map(is_index, table.header or ()))


def _flat(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(name: str) -> set[str]:
    parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    return set(re.findall(r"[a-z]+|[0-9]+", parts.lower()))
