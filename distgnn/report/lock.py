"""The lock on a run's folder, which one process holds while it writes there."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LOCK = ".lock"
_held: set[str] = set()  # by this process: the system's locks keep out others alone


class FolderLock:
    """A folder's lock against other processes.

    The lock is the system's, on a file ``.lock`` that says who holds it; a file that a killed process has left locks
    nobody out. On file systems without locks nobody is kept out.

    Args:
        folder: The folder, which is there.

    Raises:
        ConfigError: Another process has it; the text says which, and on which machine.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        while True:
            self._descriptor = _lock(folder, os.O_RDWR | os.O_CREAT)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self._path.stat()):
                    break
            os.close(self._descriptor)  # its holder has removed it since
        _held.add(os.path.realpath(self._path))
        self.text = f"process {os.getpid()} on {socket.gethostname()}"
        with suppress(OSError):  # a full disk locks as well
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, self.text.encode())

    def release(self) -> None:
        """Let others in."""
        with suppress(OSError):  # it may be gone with the folder
            self._path.unlink()
        os.close(self._descriptor)
        _held.discard(os.path.realpath(self._path))


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that a process has.

    Raises:
        ConfigError: As :class:`FolderLock` does.
    """
    with suppress(OSError):
        os.close(_lock(folder, os.O_RDWR))


def _lock(folder: Path, flags: int) -> int:
    """Open the file and lock it."""
    path = folder / LOCK
    if os.path.realpath(path) in _held:  # to close it again would let others in
        raise _taken(folder, path.read_text(errors="replace"))
    descriptor = os.open(path, flags, 0o644)
    try:
        # Of the process, not of the descriptor, which what it has forked may keep for longer.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(descriptor, 1000).decode(errors="replace")
        os.close(descriptor)
        raise _taken(folder, holder) from None
    except OSError:  # the file system has no locks
        pass
    return descriptor


def _taken(folder: Path, holder: str) -> ConfigError:
    return ConfigError(
        f"{folder} is being written by {holder or 'another process'}: wait for its end, or choose another --name"
    )
