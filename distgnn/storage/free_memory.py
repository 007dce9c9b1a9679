"""Memory that is free for what is about to be read."""

from __future__ import annotations

import psutil

from distgnn.errors import DataFormatError


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
