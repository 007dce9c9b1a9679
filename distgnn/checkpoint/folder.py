"""A folder of checkpoints, ``step-1``, ``step-2``, ...

A checkpoint gets its name when it is whole, and loses it before it is removed.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from distgnn.checkpoint.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Collection

_DRAFT, _OLD = ".draft", ".old"  # hidden folders that are no checkpoints


def draft_of(path: Path) -> Path:
    """Return the hidden folder in which a checkpoint is written."""
    return path.with_name(f".{path.name}{_DRAFT}")


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the checkpoint of the largest number in a folder of them, or None; every ``step-N`` there is whole."""
    found = _numbered(Path(folder))
    return found[-1] if found else None


def find_checkpoint(path: Path) -> Path | None:
    """Return what is meant by a path: a checkpoint, or the last one of a run or of a folder of checkpoints."""
    if (path / MANIFEST).exists():
        return path
    return latest_checkpoint(path / "checkpoints") or latest_checkpoint(path)


def prune_checkpoints(folder: str | Path, keep: int, *, also: Collection[Path] = ()) -> None:
    """Remove all but the last checkpoints of a folder, and what crashed jobs have left; by one rank.

    Args:
        folder: Of checkpoints named ``step-N``.
        keep: How many stay, at least 1.
        also: Others that stay.
    """
    folder = Path(folder)
    for path in _numbered(folder)[: -max(1, keep)]:
        if path in also:
            continue
        with suppress(OSError):  # a step at a time, and the first of them makes it invisible
            path.rename(path.with_name(f".{path.name}{_OLD}"))
    for ending in (_DRAFT, _OLD):
        for path in folder.glob(f".step-*{ending}"):
            shutil.rmtree(path, ignore_errors=True)


def _numbered(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir()]
    return sorted(paths, key=lambda path: int(path.name[5:]))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
