"""The texts of errors that the page on troubleshooting quotes are those that the code raises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from distgnn import errors

ROOT = Path(__file__).parents[2]
OF_OTHERS = ("torch.jit.script", "Secondary flag")
ROWS = re.findall(r"^\| (`+.*?`+)", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)


def texts() -> set[str]:
    """Every text in the code, with a gap where a value is put in."""
    found = set()
    for file in (ROOT / "distgnn").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.fixture(scope="module")
def known() -> set[str]:
    return texts()


@pytest.mark.parametrize("quoted", ROWS)
def test_a_quoted_error_is_one_of_the_code(quoted: str, known: set[str]) -> None:
    if any(words in quoted for words in OF_OTHERS):
        return
    words = quoted.strip("`")
    for error in re.findall(r"\w+Error", words):
        assert hasattr(errors, error)
    fixed = re.split(r"\.\.\.|'[^']*'|\d+|\[[^\]]*\]|\w+Error|[:;,?]|=| is not taken here", words)
    longest = max((piece.strip() for piece in fixed), key=len)
    assert not longest or any(longest in text for text in known), longest
