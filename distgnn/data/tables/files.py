"""Tables of numbers from text, NumPy and PyTorch files."""

from __future__ import annotations

import gzip
import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.data.tables.arrays import ARRAY_SUFFIXES, read_array
from distgnn.data.tables.text import WORDS, TextTable, find_layout
from distgnn.errors import DataFormatError, DatasetNotFoundError
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".edges", ".edgelist")

_BROKEN_TEXT = (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError)


@dataclass(frozen=True)
class Table:
    """The numbers of a file.

    Attributes:
        path: The file.
        values: float64 of shape ``[rows, columns]`` from text; of any shape, and int64 or floating, from an array.
        layout: How the text is written; ``None`` for an array.
        columns: Which columns of the text these are, in order; of an array none.
    """

    path: Path
    values: Tensor
    layout: TextTable | None = None
    columns: tuple[int, ...] = ()

    def refuse(self, bad: Tensor, numbers: Tensor, why: str) -> None:
        """Raise for the first of the numbers that is bad, if any is.

        Args:
            bad: Boolean tensor of the shape of ``numbers``.
            numbers: What was checked; its first dimension are the rows of the file.
            why: What is wrong with such a number, and what to do.

        Raises:
            DataFormatError: A number is bad; the text names the file, the line and the number.
        """
        if bad.any():
            first = tuple(bad.nonzero()[0].tolist())
            raise DataFormatError(f"{self.where(first[0])}: {numbers[first].item():.15g} {why}")

    def where(self, row: int) -> str:
        """The place of a row, for an error's text."""
        if self.layout is None:
            return f"{self.path}, entry {row} (counted from 0)"
        line, _ = next(itertools.islice(self.layout.lines(), row, None))
        return f"{self.path}, line {line}"


def read_table(
    path: Path,
    *,
    key: str,
    pick: Callable[[TextTable], Sequence[int]] | None = None,
    gaps: bool = False,
    suffix: str | None = None,
) -> Table:
    """Read a table of numbers.

    Text is separated by commas, semicolons, tabs, bars or blanks, plain or gzipped; lines before the data that begin
    with ``#`` or ``%`` are skipped, and a first line without any number is the header.

    Args:
        path: The file; its suffix says what it is.
        key: Name of the array in an ``.npz`` file or in a dictionary in a ``.pt`` file. An array alone in its file may
            have any name.
        pick: Chooses the columns of a text table to read; the others may then hold text. ``None`` reads all.
        suffix: What kind of file it is, where its own suffix does not say so.
        gaps: Read fields that are empty, or say NaN or NA, as NaN, and True and False as 1 and 0.

    Raises:
        DatasetNotFoundError: There is no such file.
        DataFormatError: It is not a table of numbers; the text names the line.
    """
    check_file(path)
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if (suffix or plain.suffix.lower()) in TEXT_SUFFIXES:
        return _read_text(path, pick, gaps=gaps)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return Table(path, read_array(path, key))
    raise DataFormatError(
        f"{path} has the suffix {path.suffix!r}; known are {', '.join(TEXT_SUFFIXES)}, each also with .gz, "
        f"and {', '.join(ARRAY_SUFFIXES)}; rename or convert the file"
    )


def check_file(path: Path) -> None:
    """Refuse what is no file, or more than memory holds.

    Raises:
        DatasetNotFoundError: There is no such file.
        DataFormatError: It is something else, or larger than the memory that is free.
    """
    if not path.exists():
        raise DatasetNotFoundError(f"there is no file {path}; check the path")
    if not path.is_file():
        raise DataFormatError(f"{path} is a folder, a pipe or a device; give a file")
    check_memory(f"{path}", path.stat().st_size)


def _read_text(path: Path, pick: Callable[[TextTable], Sequence[int]] | None, *, gaps: bool) -> Table:
    try:
        layout = find_layout(path)
        columns = tuple(range(layout.width)) if pick is None else tuple(pick(layout))
        try:
            values = _load(layout, columns, whole=pick is None, gaps=False)
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            fault = layout.fault(columns, columns if gaps else ())
            if fault or not gaps:
                raise DataFormatError(fault or f"{path} cannot be read: {error}") from error
            values = _load(layout, columns, whole=False, gaps=True)
    except _BROKEN_TEXT as error:
        raise DataFormatError(
            f"{path} cannot be read as text ({str(error) or type(error).__name__}); write it again, as UTF-8"
        ) from error
    return Table(path, torch.from_numpy(values), layout, columns)


def _load(layout: TextTable, columns: Sequence[int], *, whole: bool, gaps: bool) -> np.ndarray:
    # Columns that are not read are one letter each, for NumPy checks the width of whole rows only.
    wanted = set(columns)
    kinds = [(f"f{column}", "f8" if column in wanted else "U1") for column in range(layout.width)]
    values = np.loadtxt(
        (line for _, line in layout.lines()),
        dtype=np.float64 if whole else kinds,
        delimiter=layout.delimiter,
        comments=None,
        quotechar='"',
        encoding="utf-8",
        ndmin=2 if whole else 1,
        converters=dict.fromkeys(wanted, _number) if gaps else None,
    )
    return values if whole else np.stack([values[f"f{column}"] for column in columns], axis=1)


def _number(field: str) -> float:
    word = field.strip().lower()
    return WORDS[word] if word in WORDS else float(word)
