"""Tables of answers, written as Parquet or CSV when they are whole."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from distgnn.errors import ConfigError, RunWriteError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self

FORMATS = {
    ".parquet": "(FORMAT parquet, COMPRESSION zstd)",
    ".csv": "(FORMAT csv, HEADER)",
    ".csv.gz": "(FORMAT csv, HEADER, COMPRESSION gzip)",
    ".tsv": "(FORMAT csv, HEADER, DELIMITER '\t')",
}


class AnswerFile:
    """A table that grows by pieces, and gets its name when it is whole. A context manager; an error leaves no file.

    Args:
        path: Where it is written; the suffix says how, one of :data:`FORMATS`. A file that is there is replaced.

    Raises:
        ConfigError: The suffix is none of them.
        RunWriteError: The folder cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._how = next((how for suffix, how in FORMATS.items() if self.path.name.endswith(suffix)), None)
        if self._how is None:
            raise ConfigError(f"out must end in one of {', '.join(FORMATS)}, not {str(path)!r}")
        # Pieces wait on the disk, so that the table may be larger than memory.
        self._waiting = self.path.with_name(f".{self.path.name}.pieces")
        self._draft = self.path.with_name(f".{self.path.name}.new")
        self._clear()
        safe: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._tables = duckdb.connect(str(self._waiting), config=safe)
        except (OSError, duckdb.Error) as error:
            raise self._error(error) from error
        self._is_empty = True

    def add(self, piece: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Append rows.

        Args:
            piece: The columns by name, each ``[K]``; the same ones in every piece.

        Raises:
            RunWriteError: There is no room.
        """
        first, more = "CREATE TABLE answers AS SELECT * FROM piece", "INSERT INTO answers SELECT * FROM piece"
        self._run(first if self._is_empty else more, dict(piece))
        self._is_empty = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._is_empty:
                quoted = str(self._draft).replace("'", "''")
                self._run(f"COPY answers TO '{quoted}' {self._how}")
                self._draft.replace(self.path)
        except OSError as failed:
            raise self._error(failed) from failed
        finally:
            self._tables.close()
            self._clear()

    def _run(self, statement: str, piece: dict[str, Any] | None = None) -> None:
        try:
            if piece is not None:
                self._tables.register("piece", piece)
            self._tables.execute(statement)
        except duckdb.Error as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> RunWriteError:
        return RunWriteError(f"{self.path} cannot be written: {error}; make room, or choose another out")

    def _clear(self) -> None:
        for path in (self._waiting, self._waiting.with_name(f"{self._waiting.name}.wal"), self._draft):
            with suppress(OSError):
                path.unlink(missing_ok=True)
