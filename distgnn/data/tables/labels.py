"""Labels of nodes, and the sets that nodes are in, from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.data.notes import note
from distgnn.data.splits import is_labelled, random_masks
from distgnn.data.tables.columns import SET_NAMES, find_label, node_column, split_columns
from distgnn.data.tables.files import read_table
from distgnn.data.tables.ids import check_rows, node_ids, whole
from distgnn.data.tables.text import GAPS
from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from distgnn.data.tables.files import Table
    from distgnn.data.tables.text import TextTable

MOST_CLASSES_WITH_GAPS = 100
_MANY = 20  # labelled nodes, from which labels of their own look like numbers


def read_labels(
    path: Path, num_nodes: int, asked: str | int | None, *, seed: int, regression: bool = False
) -> dict[str, Tensor]:
    """Read labels, and the split if the table has one.

    Args:
        path: The file.
        num_nodes: Number of nodes.
        asked: Column of the label.
        seed: Of the random split, where the table has none.
        regression: Whether labels are numbers to be predicted, not classes.

    Returns:
        ``y``, ``train_mask``, ``val_mask`` and ``test_mask``, each ``[num_nodes]``.

    Raises:
        DataFormatError: They are not the labels of these nodes.
    """

    def pick(table: TextTable) -> list[int]:
        label = find_label(table, asked)
        nodes = node_column(table, label)
        masks = [i for i, kind in split_columns(table).items() if kind != "split" and i != label]
        return [*([] if nodes is None else [nodes]), label, *masks]

    values = numbers if regression else classes
    table = read_table(path, key="y", pick=pick, gaps=True)
    if table.layout is None:
        check_rows(table, num_nodes, "labels")
        if table.values.numel() != num_nodes:
            raise DataFormatError(f"{path} holds {list(table.values.shape)}; labels are an array of shape [N]")
        y = values(table, table.values.flatten().double())
        return {"y": y, **random_masks(y, seed=seed)}
    label = find_label(table.layout, asked)
    column = table.columns.index(label)
    if node_column(table.layout, label) is None:
        check_rows(table, num_nodes, "labels")
        nodes = torch.arange(num_nodes)
    else:
        nodes = node_ids(table, table.values[:, 0], num_nodes)
        twice = nodes.bincount(minlength=num_nodes)[nodes] > 1
        table.refuse(twice, nodes, "has more than one label; keep one line a node")
    found = values(table, table.values[:, column])
    y = torch.full((num_nodes,), torch.nan if regression else -1, dtype=found.dtype)
    y[nodes] = found
    sets = _own_sets(table, label, nodes, num_nodes)
    return {"y": y, **(random_masks(y, seed=seed) if sets is None else _masks(path, sets, y))}


def numbers(table: Table, values: Tensor) -> Tensor:
    """Take numbers for what is to be predicted, float32, NaN where there is none; say what is unusual.

    Raises:
        DataFormatError: One is not finite, or there is none.
    """
    y = values.float()
    table.refuse(y.isinf(), values, "is not a label of regression, a finite number in float32")
    gaps = int(y.isnan().sum())
    if gaps == y.numel():
        raise DataFormatError(f"{table.path}: no node has a label; labels of regression are numbers")
    if gaps:
        note(f"{table.path}: of {y.numel():,} lines {gaps:,} are unlabelled, by an empty field")
    return y


def classes(table: Table, numbers: Tensor) -> Tensor:
    """Take numbers for classes, -1 where there is none; say what is unusual.

    Raises:
        DataFormatError: They are no classes; the text names the line, or says what they look like.
    """
    empty = numbers.isnan()
    numbers = torch.where(empty, -1.0, numbers)
    fraction = "is not a label; labels are the integers from 0, and -1 for unlabelled"
    table.refuse(
        ~whole(numbers) & numbers.isfinite() & (numbers.abs() < 2**53),
        numbers,
        f"{fraction}; numbers to be predicted (regression) are not trained here, only classes: "
        "that is task='node-regression' of training, and regression=True in Python",
    )
    table.refuse(~(whole(numbers) & (numbers >= -1)), numbers, f"{fraction}; an empty field is unlabelled, too")
    y = numbers.long()
    labelled = y[y >= 0]
    distinct = torch.unique(labelled).tolist()
    minus = int(((y < 0) & ~empty).sum())
    if not distinct:
        raise DataFormatError(f"{table.path}: no node has a label; labels are the integers from 0")
    if len(distinct) == 1 and minus:
        raise DataFormatError(
            f"{table.path} has the labels -1 and {distinct[0]} alone: if -1 is a class, number the classes 0 and 1; "
            "if it is unlabelled, one class is left, which is nothing to learn"
        )
    count = distinct[-1] + 1
    if count > MOST_CLASSES_WITH_GAPS and len(distinct) < count // 2:
        raise DataFormatError(
            f"{table.path} has labels up to {distinct[-1]:,}, which makes {count:,} classes of which {len(distinct):,} "
            "are there; number classes from 0, for example with numpy.unique(labels, return_inverse=True) "
            "(numbers to be predicted, as prices, are for task='node-regression')"
        )
    if minus or bool(empty.any()):
        kinds = " and ".join(f"{n:,} by {by}" for n, by in ((minus, "-1"), (int(empty.sum()), "an empty field")) if n)
        note(f"{table.path}: of {y.numel():,} lines {y.numel() - labelled.numel():,} are unlabelled, {kinds}")
    if len(distinct) == 1 and labelled.numel() > 1:
        note(f"{table.path}: every label is {distinct[0]}, one class, which is nothing to learn")
    elif len(distinct) < count:
        note(f"{table.path}: labels up to {distinct[-1]} make {count} classes, of which {len(distinct)} are there")
    elif labelled.numel() >= _MANY and 2 * len(distinct) > labelled.numel():
        note(f"{table.path}: {labelled.numel():,} nodes have {len(distinct):,} different labels; are these classes?")
    return y


def _own_sets(table: Table, label: int, nodes: Tensor, num_nodes: int) -> Tensor | None:
    """Read which set each node is in: 0, 1 and 2 for training, validation and test, -1 for none."""
    layout = table.layout
    kinds = {i: kind for i, kind in split_columns(layout).items() if i != label} if layout else {}
    if not layout or not kinds:
        return None
    order = ("train", "val", "test")
    sets = torch.full((num_nodes,), -1)
    words = [i for i, kind in kinds.items() if kind == "split"]
    if words:
        if len(kinds) > 1:
            raise DataFormatError(f"{table.path} has several columns that say the set of a node; keep one")
        found = []
        for line, fields in layout.rows():
            word = fields[words[0]].strip().lower()
            if word not in SET_NAMES and word not in GAPS | {"-1", "unlabelled", "unlabeled"}:
                raise DataFormatError(
                    f"{table.path}, line {line}: {fields[words[0]]!r} is no set; write train, val, test, or nothing"
                )
            found.append(order.index(SET_NAMES[word]) if word in SET_NAMES else -1)
        sets[nodes] = torch.tensor(found)
        return sets
    masks = torch.nan_to_num(table.values[:, [table.columns.index(i) for i in kinds]])
    table.refuse((masks != 0) & (masks != 1), masks, "is no mask; write 1 for the nodes of the set, 0 for others")
    table.refuse(masks.sum(dim=1) > 1, masks.sum(dim=1), "sets have this node; a node is in one of train, val and test")
    for position, kind in enumerate(kinds.values()):
        sets[nodes[masks[:, position] == 1]] = order.index(kind)
    return sets


def _masks(path: Path, sets: Tensor, y: Tensor) -> dict[str, Tensor]:
    labelled = is_labelled(y)
    masks = {name: (sets == number) & labelled for number, name in enumerate(("train_mask", "val_mask", "test_mask"))}
    sizes = {name.removesuffix("_mask"): int(mask.sum()) for name, mask in masks.items()}
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        raise DataFormatError(f"{path}: no labelled node is in {', '.join(empty)}; a split has train, val and test")
    outside, without = int(((sets < 0) & labelled).sum()), int(((sets >= 0) & ~labelled).sum())
    if outside or without:
        note(
            f"{path}: {outside:,} nodes with a label are in no set, and {without:,} in one have no label; "
            "both are left out of training and evaluation"
        )
    return masks
