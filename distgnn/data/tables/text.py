"""The dialect of a text table, and its lines."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, cast

from distgnn.errors import DataFormatError
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LONGEST_LINE = 1 << 26  # characters; a million columns have less
GAPS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})  # what data frames write for no value
WORDS = {"true": 1.0, "false": 0.0} | dict.fromkeys(GAPS, float("nan"))
_ROWS_BETWEEN_CHECKS = 1 << 20
_LINES_LOOKED_AT = 100_000  # for other wrong columns, once one is found


@dataclass(frozen=True)
class TextTable:
    """The dialect of a text table.

    Attributes:
        path: The file.
        delimiter: What separates its columns; ``None`` for blanks.
        header: Names of its columns, if a line has them.
        first_line: Number of the first line with data, counted from 1.
        width: How many columns it has.
    """

    path: Path
    delimiter: str | None
    header: tuple[str, ...] | None
    first_line: int
    width: int

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines that hold data, and their numbers, counted from 1."""
        with open_text(self.path) as file:
            for rows, (number, line) in enumerate(_lines(self.path, file)):
                if number >= self.first_line and not line.isspace():
                    yield number, line
                if not (rows + 1) % _ROWS_BETWEEN_CHECKS:
                    check_memory(f"{self.path} has more than {rows:,} lines, which", 16 * rows * self.width)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The lines that hold data as number and fields."""
        for number, line in self.lines():
            yield number, fields_of(line, self.delimiter)

    def column(self, asked: str | int) -> int:
        """The number of the column with the asked name or number; negative numbers count from the right."""
        if self.header and asked in self.header:
            return self.header.index(str(asked))
        number = int(asked) if isinstance(asked, int) or asked.lstrip("-").isdecimal() else self.width
        if -self.width <= number < self.width:
            return number % self.width
        names = ", ".join(self.header) if self.header else "no header line"
        raise DataFormatError(
            f"{self.path} has no column {asked!r}; it has {self.width} columns ({names}); give one of them"
        )

    def name(self, column: int) -> str:
        """What a column is called in a text."""
        return repr(self.header[column]) if self.header and self.header[column] else f"{column} (from 0)"

    def fault(self, columns: Sequence[int], gaps: Sequence[int] = ()) -> str | None:
        """Say what is no number in a table, of all columns at once. Slow, and done for an error's text only."""
        wrong: dict[int, tuple[int, str]] = {}
        looked = 0
        for number, fields in self.rows():
            if len(fields) != self.width:
                return wrong_text(self, wrong, columns) or (
                    f"{self.path}, line {number}: {len(fields)} columns, but the first row has {self.width}; "
                    "make the rows equally long"
                )
            for column in columns:
                field = fields[column].strip()
                if column not in wrong and not is_number(field) and not (column in gaps and field.lower() in WORDS):
                    wrong[column] = number, fields[column]
            looked += bool(wrong)
            if len(wrong) == len(columns) or looked > _LINES_LOOKED_AT:
                break
        return wrong_text(self, wrong, columns)


def wrong_text(table: TextTable, wrong: dict[int, tuple[int, str]], columns: Sequence[int]) -> str | None:
    """Say which columns hold what is no number."""
    if not wrong:
        return None
    first, field = min(wrong.values())
    if len(wrong) == 1 or len(columns) == 1 or not table.header:
        if not field.strip():
            return f"{table.path}, line {first}: {field!r} is not a number; fill the empty field, or leave the line out"
        decimal = ", with a point before decimals" if {",", ";"} & set(field) else ""
        return f"{table.path}, line {first}: {field!r} is not a number; map text to whole numbers first{decimal}"
    places = ", ".join(
        f"{table.name(column)} ({text!r}, line {line})" for column, (line, text) in sorted(wrong.items())
    )
    return f"{table.path} has {len(wrong)} columns that hold what is not a number: {places}; map them to numbers first"


def find_layout(path: Path) -> TextTable:
    """Find how a text table is written from its first lines.

    Raises:
        DataFormatError: It has no line with data, or its first lines do not go together.
    """
    with open_text(path) as file:
        written = ((number, line) for number, line in _lines(path, file) if not line.isspace())
        table = itertools.dropwhile(lambda numbered: numbered[1].startswith(("#", "%")), written)
        first_lines = list(itertools.islice(table, 3))
    delimiter = _delimiter([line for _, line in first_lines])
    rows = [(number, fields_of(line, delimiter)) for number, line in first_lines]
    header = tuple(name.strip() for name in rows.pop(0)[1]) if rows and _is_header(rows[0][1]) else None
    if not rows:
        raise DataFormatError(f"{path} is empty: no line of it holds numbers; write one row a line")
    number, fields = rows[0]
    if header and len(header) != len(fields):
        title = f", or remove line {first_lines[0][0]} if it is a title" if len(header) < len(fields) else ""
        raise DataFormatError(
            f"{path}, line {number}: {len(fields)} columns under a header of {len(header)}; give every column a name"
            + title
        )
    if header:
        named = [name for name in header if name]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise DataFormatError(f"{path} has several columns called {', '.join(twice)}; give each a name of its own")
    return TextTable(path, delimiter, header, number, len(fields))


def open_text(path: Path) -> TextIO:
    """Open a text file, plain or gzipped."""
    if path.suffix.lower() == ".gz":
        return cast("TextIO", io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def fields_of(line: str, delimiter: str | None) -> list[str]:
    """Split a line into its fields."""
    if delimiter is None:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a field is longer than csv takes
        return line.split(delimiter)


def is_number(field: str) -> bool:
    """Say whether a field holds a number, infinity and NaN among them."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) == LONGEST_LINE:
            raise DataFormatError(f"{path}, line {number} is longer than {LONGEST_LINE:,} characters; is it a table?")
        yield number, line


def _delimiter(lines: Sequence[str]) -> str | None:
    """Choose the mark that splits the first lines alike, and into the most numbers."""
    best: tuple[int, str | None] = (-1, None)
    for mark in "\t;|,":
        split = [fields_of(line, mark) for line in lines]
        widths = {len(fields) for fields in split[-2:]}
        if len(widths) == 1 and widths != {1}:
            best = max(best, (sum(map(is_number, split[-1])), mark), key=lambda found: found[0])
    if best[1] is None:
        return next((mark for mark in ",;\t|" if lines and mark in lines[0]), None)
    return best[1]


def _is_header(fields: Sequence[str]) -> bool:
    """Say whether a line names columns: none is a number, or they are data frames' default names behind an index."""
    if not any(map(is_number, fields)):
        return True
    return not fields[0].strip() and [*map(str.strip, fields[1:])] == [*map(str, range(len(fields) - 1))]
