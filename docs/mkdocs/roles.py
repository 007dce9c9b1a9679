"""An extension of Griffe: our docstrings are in Sphinx's markup, as PyG's are, and mkdocstrings reads Markdown."""

from __future__ import annotations

import re
from html import escape
from textwrap import dedent
from typing import Any

from griffe import Extension, Module, Object
from latex2mathml.converter import convert

_BLOCK = re.compile(r"^( *)\.\. math::\n((?:\1 +\S.*\n?|\n)+)", re.MULTILINE)
_LINK = re.compile(r"`([^`<]+?)\s*<(https?://[^>`]+)>`_")
_ROLE = re.compile(r":(\w+):`([^`]+)`")


class Roles(Extension):
    """Rewrites docstrings: formulas as MathML, which browsers draw by themselves, and names as links."""

    def on_package(self, *, pkg: Module, **_kwargs: Any) -> None:
        """Rewrite the docstrings of a package."""
        self._rewrite(pkg)

    def _rewrite(self, obj: Object) -> None:
        if obj.docstring is not None:
            text = _BLOCK.sub(lambda found: f"{found[1]}{_formula(dedent(found[2]), 'block')}\n\n", obj.docstring.value)
            obj.docstring.value = _ROLE.sub(_role, _LINK.sub(r"[\1](\2)", text))
        for member in obj.members.values():
            if isinstance(member, Object):  # and no alias, which is rewritten where it is defined
                self._rewrite(member)


def _formula(tex: str, display: str) -> str:
    return convert(" ".join(tex.split()), display=display)


def _role(found: re.Match[str]) -> str:
    role, text = found.groups()
    if role == "math":
        return _formula(text, "inline")
    if role == "obj":
        return f"`{text}`"
    name = text.removeprefix("~")
    shown = name.rpartition(".")[2] if text.startswith("~") else name
    return f'<autoref identifier="{escape(name)}" optional><code>{escape(shown)}</code></autoref>'
