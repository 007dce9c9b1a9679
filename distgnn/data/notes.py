"""What is said of data that was read: a warning, never silence."""

from __future__ import annotations

import warnings

import psutil

from distgnn.errors import DataFormatError


class DataWarning(UserWarning):
    """Data that was left out, or that is unusual, in words and numbers."""


def note(text: str) -> None:
    """Warn of something about the data."""
    warnings.warn(text, DataWarning, stacklevel=3)


def check_memory(what: str, size: int) -> None:
    """Refuse what does not fit into the memory that is free, before any of it is taken.

    Args:
        what: What it is, the beginning of the error's text.
        size: Its bytes.

    Raises:
        DataFormatError: It is larger.
    """
    free = psutil.virtual_memory().available
    if size > free:
        raise DataFormatError(f"{what} takes {size:,} bytes, and {free:,} bytes of memory are free; see what it holds")
