"""Warnings about data that was read."""

from __future__ import annotations

import warnings


class DataWarning(UserWarning):
    """Data that was left out, or that is unusual, in words and numbers."""


def note(text: str) -> None:
    """Warn of something about the data."""
    warnings.warn(text, DataWarning, stacklevel=3)
