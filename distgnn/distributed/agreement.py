"""Comparison of what must be equal on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 200  # characters of a value that an error shows


def check_agreement(facts: Mapping[int, Mapping[str, object]]) -> None:
    """Compare what ranks say, in the order in which the first of them says it.

    Args:
        facts: What each rank says, by name.

    Raises:
        ConfigError: Two differ; the text names the first difference, both values and both ranks.
    """
    (first, its), *others = sorted(facts.items())
    for name in dict.fromkeys(name for one in facts.values() for name in one):
        for rank, theirs in others:
            if theirs.get(name) != its.get(name):
                raise ConfigError(
                    f"ranks differ in {name}: {_shown(its.get(name))} on rank {first}, {_shown(theirs.get(name))} on "
                    f"rank {rank}; start every rank with the same"
                )


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)[:_LONGEST]
