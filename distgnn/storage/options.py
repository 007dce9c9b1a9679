"""Options of a backend as they are written on a command line."""

from __future__ import annotations

import ast

from distgnn.errors import BackendOptionError


def read_option(text: str) -> tuple[str, object]:
    """Read an option of a backend, ``NAME=VALUE``: a value as Python writes it, or else a text.

    Raises:
        BackendOptionError: There is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise BackendOptionError(f"--option {text!r} has no value; write it as NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
