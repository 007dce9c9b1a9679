"""State that update rules keep beside the rows of a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from distgnn.errors import SpecError
from distgnn.storage.capabilities import RuleState

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from distgnn.storage.protocols import StateSpec, UpdateRule
    from distgnn.storage.specs import EmbeddingSpec, TensorSpec

# What files of before rules had keys call their state; it goes on under that name.
_FORMER = {
    "sgd": "distgnn.optim.rules.SGD",
    "adagrad": "distgnn.optim.rules.Adagrad",
    "rowwise-adagrad": "distgnn.optim.rules.RowWiseAdagrad",
    "adam": "distgnn.optim.rules.Adam",
}
Kept = TypeVar("Kept")  # what an engine keeps a tensor of state as


class KeepsRuleStates(ABC, Generic[Kept]):
    """The bookkeeping of a store's rules: their steps, and the tensors of their state.

    State belongs to the class of a rule, for a scheduler makes a new rule in each step.

    Args:
        spec: The whole store.
    """

    def __init__(self, spec: EmbeddingSpec | TensorSpec) -> None:
        self.spec = spec
        self._state: dict[str, dict[str, Kept]] = {}  # by rule and name
        self._kept: dict[str, RuleState] = {}

    @abstractmethod
    def check_open(self) -> None:
        """Refuse what comes after close().

        Raises:
            StoreClosedError: It is closed.
        """

    @abstractmethod
    def _new_state(self, rule: str, state: RuleState) -> dict[str, Kept]:
        """Return the tensors of a rule's state, each as it is before the rule's first use."""

    def _drop_state(self, rule: str) -> None:
        del self._state[rule], self._kept[rule]

    def rule_states(self) -> dict[str, RuleState]:
        """See :meth:`distgnn.SupportsCheckpoint.rule_states`."""
        self.check_open()
        return dict(self._kept)

    def reset_rule_states(self, states: Mapping[str, RuleState]) -> None:
        """See :meth:`distgnn.SupportsCheckpoint.reset_rule_states`."""
        self.check_open()
        self.forget_rule_states()
        for rule, state in states.items():
            self._make_state(rule, state)

    def forget_rule_states(self) -> None:
        """Drop all state."""
        for rule in list(self._kept):
            self._drop_state(rule)

    def state_tensors(self) -> dict[str, Kept]:
        """Return the tensors of all state, by the names of :meth:`distgnn.SupportsCheckpoint.export_rows`."""
        return {f"{rule}/{name}": kept for rule, tensors in self._state.items() for name, kept in tensors.items()}

    def next_step(self, rule: UpdateRule, embedding_dim: int) -> tuple[dict[str, Kept], int]:
        """Count a step of a rule.

        Args:
            rule: Its state is made at its first step.
            embedding_dim: Columns of the table.

        Returns:
            The tensors of its state, and the number of the step, from 1.

        Raises:
            SpecError: The state that was loaded for the rule's class has other names or widths than the rule's.
        """
        name, needed = rule_name(type(rule), self._kept), dict(rule.state(embedding_dim))
        if name not in self._kept:
            self._make_state(name, RuleState(0, needed))
        kept = self._kept[name]
        check_state(self.spec, name, kept, needed)
        self._kept[name] = kept = kept._replace(steps=kept.steps + 1)
        return self._state[name], kept.steps

    def _make_state(self, rule: str, state: RuleState) -> None:
        self._state[rule] = self._new_state(rule, state)
        self._kept[rule] = state


def rule_name(rule: type, kept: Container[str] = ()) -> str:
    """Return the name that the state of a rule's class is kept by: its ``key``, or ``module.QualifiedName``.

    Args:
        rule: The class. One that is derived from another has a key of its own, or none.
        kept: Names of a store's state; where the class's is there by the name of before it had a key, that is it.
    """
    name = str(vars(rule).get("key", f"{rule.__module__}.{rule.__qualname__}"))
    former = _FORMER.get(name, name)
    return former if name not in kept and former in kept else name


def check_state(spec: EmbeddingSpec | TensorSpec, rule: str, kept: RuleState, needed: Mapping[str, StateSpec]) -> None:
    """Refuse state that a rule cannot use.

    Raises:
        SpecError: It has other names or widths.
    """
    widths, asked = ({name: one.width for name, one in specs.items()} for specs in (kept.tensors, needed))
    if widths != asked:
        raise SpecError(
            f"embedding store {spec.name!r}: the state that was loaded for {rule} has columns {widths}, and the rule "
            f"needs {asked}; load a checkpoint of the same rule, or start its state anew with reset_rule_states({{}})"
        )
