"""Tables of numbers from text, NumPy and PyTorch files, with errors that name the line."""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import numpy as np
import torch
from torch import Tensor

from distgnn.errors import DataFormatError, DatasetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".edges", ".edgelist")
ARRAY_SUFFIXES = (".npz", ".npy", ".pt")

_BROKEN_TEXT = (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError)


@dataclass(frozen=True)
class TextLayout:
    """How a text table is written, as its first lines show it."""

    path: Path
    delimiter: str | None
    header: tuple[str, ...] | None
    first_line: int
    width: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The lines that hold data: line number, counted from 1, and fields."""
        with _open_text(self.path) as file:
            for number, line in itertools.islice(enumerate(file, 1), self.first_line - 1, None):
                if fields := _fields(line, self.delimiter):
                    yield number, fields

    def column(self, asked: str | int) -> int:
        """The number of the column with the asked name or number; negative numbers count from the right."""
        if isinstance(asked, int) and -self.width <= asked < self.width:
            return asked % self.width
        if self.header and asked in self.header:
            return self.header.index(str(asked))
        names = ", ".join(self.header) if self.header else "no header line"
        raise DataFormatError(
            f"{self.path} has no column {asked!r}; it has {self.width} columns ({names}); give one of them"
        )


@dataclass(frozen=True)
class Table:
    """The numbers of a file.

    Attributes:
        path: The file.
        values: float64 of shape ``[rows, columns]`` from text; of any shape, and int64 or floating, from an array.
        layout: How the text is written; ``None`` for an array.
    """

    path: Path
    values: Tensor
    layout: TextLayout | None = None

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
        line, _ = next(itertools.islice(self.layout.rows(), row, None))
        return f"{self.path}, line {line}"


def read_table(path: Path, *, key: str, columns: Sequence[str | int] | None = None) -> Table:
    """Read a table of numbers.

    Text is separated by commas, semicolons, tabs or spaces, plain or gzipped; lines before the data that begin with
    ``#`` or ``%`` are skipped, and a first line without any number is the header.

    Args:
        path: The file; its suffix says what it is.
        key: Name of the array in an ``.npz`` file or in a dictionary in a ``.pt`` file. An array alone in its file may
            have any name.
        columns: Columns of a text table to read, by name or number; the others may then hold text. ``None`` reads all.

    Raises:
        DatasetNotFoundError: There is no such file.
        DataFormatError: It is not a table of numbers; the text names the line.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"there is no file {path}; check the path")
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if plain.suffix.lower() in TEXT_SUFFIXES:
        return _read_text(path, columns)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return Table(path, _read_array(path, key))
    raise DataFormatError(
        f"{path} has the suffix {path.suffix!r}; known are {', '.join(TEXT_SUFFIXES)}, each also with .gz, "
        f"and {', '.join(ARRAY_SUFFIXES)}; rename or convert the file"
    )


def _read_text(path: Path, columns: Sequence[str | int] | None) -> Table:
    try:
        layout = _layout(path)
        picked = range(layout.width) if columns is None else sorted({layout.column(column) for column in columns})
        # Columns that are not asked for are read as one letter each, for NumPy checks the width of whole rows only.
        kind = np.float64 if columns is None else [("", "f8" if i in picked else "U1") for i in range(layout.width)]
        try:
            values = np.loadtxt(
                str(path),
                dtype=kind,
                delimiter=layout.delimiter,
                skiprows=layout.first_line - 1,
                comments=None,
                quotechar='"',
                encoding="utf-8-sig",
                ndmin=2 if columns is None else 1,
            )
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            raise DataFormatError(_fault(layout, picked) or f"{path} cannot be read: {error}") from error
    except _BROKEN_TEXT as error:
        raise DataFormatError(
            f"{path} cannot be read as text ({str(error) or type(error).__name__}); write it again, as UTF-8"
        ) from error
    if columns is not None:
        values = np.stack([values[f"f{i}"] for i in picked], axis=1)
    return Table(path, torch.from_numpy(values), layout)


def _layout(path: Path) -> TextLayout:
    with _open_text(path) as file:
        written = (numbered for numbered in enumerate(file, 1) if numbered[1].strip())
        table = itertools.dropwhile(lambda numbered: numbered[1].startswith(("#", "%")), written)
        first_lines = list(itertools.islice(table, 2))
    delimiter = next((mark for mark in ",;\t" if first_lines and mark in first_lines[0][1]), None)
    rows = [(number, _fields(line, delimiter)) for number, line in first_lines]
    named = rows and not any(map(_is_number, rows[0][1]))
    header = tuple(name.strip() for name in rows.pop(0)[1]) if named else None
    if not rows:
        raise DataFormatError(f"{path} is empty: no line of it holds numbers; write one row a line")
    number, fields = rows[0]
    if header and len(header) != len(fields):
        raise DataFormatError(
            f"{path}, line {number}: {len(fields)} columns under a header of {len(header)}; give every column a name"
        )
    return TextLayout(path, delimiter, header, number, len(fields))


def _fault(layout: TextLayout, columns: Sequence[int]) -> str | None:
    """Say which line of a table is broken. Reads it line by line, which is slow and done for an error's text only."""
    for number, fields in layout.rows():
        place = f"{layout.path}, line {number}"
        if len(fields) != layout.width:
            return f"{place}: {len(fields)} columns, but the first row has {layout.width}; make the rows equally long"
        for field in (fields[column] for column in columns):
            if not _is_number(field):
                return f"{place}: {field!r} is not a number; map text to whole numbers first"
    return None


def _open_text(path: Path) -> TextIO:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig")


def _fields(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a field is longer than csv takes
        return line.split(delimiter)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_array(path: Path, key: str) -> Tensor:
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".pt":
                found = torch.load(file, map_location="cpu", weights_only=True)
            else:
                loaded = np.load(file, allow_pickle=False)
                found = loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # readers of other people raise whatever they stumble over in a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataFormatError(f"{path} cannot be read ({reason}); save plain arrays or tensors in it") from error
    if isinstance(found, dict):
        found = _entry(path, found, key)
    array = torch.from_numpy(found) if isinstance(found, np.ndarray) and found.dtype.kind in "iuf" else found
    if (
        not isinstance(array, Tensor)
        or array.layout != torch.strided
        or array.is_complex()
        or array.dtype == torch.bool
    ):
        kind = getattr(found, "dtype", type(found).__name__)
        raise DataFormatError(f"{path} holds {kind}, not numbers; save an array of integers or floats")
    if array.numel() == 0:
        raise DataFormatError(f"{path} is empty: an array of shape {list(array.shape)}; save one with rows in it")
    array = array.detach().view(array.shape or (1,))
    return array if array.is_floating_point() else array.long()


def _entry(path: Path, found: Mapping[str, object], key: str) -> object:
    if key in found:
        return found[key]
    if len(found) == 1:
        return next(iter(found.values()))
    raise DataFormatError(f"{path} holds {', '.join(map(str, found)) or 'nothing'}; name the array {key!r}")
