"""Files of a run, replaced whole or grown by lines."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from distgnn.errors import RunWriteError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file that takes the place of the one before when it is whole.

    Raises:
        RunWriteError: It cannot be written; the one before is as it was.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> RunWriteError:
    """Say which file cannot be written, why, and what to do."""
    return RunWriteError(
        f"{path} cannot be written: {error.strerror or error}; make room, or choose another --out; what is in the "
        "folder is whole"
    )


class Lines:
    """A file that grows by whole lines.

    Args:
        path: The file.
        first: Lines that it begins with, in place of what it has.

    Raises:
        RunWriteError: It cannot be written; it is as it was.
    """

    def __init__(self, path: Path, first: Iterable[str]) -> None:
        self._path = path
        replace_file(path, "".join(f"{line}\n" for line in first))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, line: str) -> None:
        """Append a line.

        Raises:
            RunWriteError: It cannot be written; the lines before are as they were.
        """
        end = os.fstat(self._descriptor).st_size
        left = f"{line}\n".encode()
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            raise write_error(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
