"""The update rules as :class:`torch.optim.Optimizer` over the stored embeddings of modules."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from distgnn.optim.rules import SGD, Adagrad, Adam, AdamW, RowWiseAdagrad
from distgnn.optim.table_state import are_left_out, export_rule, import_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from distgnn.storage.protocols import EmbeddingStore

    Modules = Module | Iterable[Module] | Iterable[dict[str, Any]]


@runtime_checkable
class HasSparseGradients(Protocol):
    """The members of a module that an optimizer here needs."""

    name: str
    embedding_dim: int

    @property
    def slot(self) -> Tensor:
        """What stands for the module in ``param_groups``."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the module has opened its store."""
        ...

    def open_store(self) -> EmbeddingStore | None:
        """Return the store, or None while its size is not known."""
        ...

    def take_gradients(self) -> tuple[Tensor, Tensor]:
        """Return ids ``[K]`` and gradients ``[K, D]`` gathered since the last call, and forget them."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients gathered since the last step."""
        ...


class SparseOptimizer(Optimizer):
    """Base of optimizers: one row-wise rule for stored embeddings.

    A step takes the gradients of all backward passes since the last one, sums them by id and applies the rule once to
    each row that has one. Gradients are used once: a forgotten ``zero_grad()`` does not apply them again. With several
    ranks ``step()`` is a collective call; a rank whose batch was empty calls it all the same. It counts as a step of
    the rule also where there is no gradient.

    ``param_groups`` holds the rule's numbers, so that learning rate schedulers work; as in :mod:`torch.optim` there may
    be several, each ``{"params": module, "lr": 0.1}``. The rule's state (momenta, sums) lives in the stores beside the
    rows. ``state_dict()`` has that of this rank as torch's optimizers have theirs, and takes theirs; of a table of more
    than 2 GiB a rank it has none, and warns.

    Args:
        modules: A module or several, or groups of them; their stored embeddings are found as ``modules()`` lists them.
        rule: The rule with its numbers.

    Raises:
        ValueError: The modules have no stored embedding, or a group has what the rule does not take.
        TypeError: They are no modules.
    """

    def __init__(self, modules: Modules, rule: Any) -> None:
        self._rule_class = type(rule)
        self._embeddings: dict[Tensor, HasSparseGradients] = {}  # by what stands for them in param_groups
        given: list[Any] = [modules] if isinstance(modules, Module) else list(modules)
        groups: list[dict[str, Any]] = (
            given if given and all(isinstance(one, dict) for one in given) else [{"params": given}]
        )
        super().__init__(groups, asdict(rule))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train the stored embeddings of more modules, with numbers of their own.

        Args:
            param_group: ``"params"``: a module or several; and those of the rule's numbers that differ.

        Raises:
            ValueError: There is no stored embedding in them, one is in another group, or the rule has no such number.
            TypeError: They are no modules.
        """
        given = param_group["params"]
        roots: list[Any] = [given] if isinstance(given, Module | Tensor) else list(given)
        known = {field.name for field in fields(self._rule_class)}
        unknown = sorted((_NUMBERS - known) & param_group.keys())
        if unknown:
            raise ValueError(f"{type(self).__name__} has no {', '.join(unknown)}: a group may set {', '.join(known)}")
        for root in roots:
            if not isinstance(root, Module):
                raise TypeError(
                    f"{type(self).__name__} takes modules, not {type(root).__name__}: "
                    f"{type(self).__name__}(model), or groups such as {{'params': table, 'lr': 0.1}}"
                )
        found = list(dict.fromkeys(one for root in roots for one in root.modules()))
        embeddings = [module for module in found if isinstance(module, HasSparseGradients)]
        if not embeddings:
            names = ", ".join(type(root).__name__ for root in roots) or "no module"
            raise ValueError(
                f"{type(self).__name__} found no stored embedding in {names}: "
                "pass a model made with use_dist_embedding=True, or a StoredEmbedding"
            )
        self._rule({**self.defaults, **param_group})
        super().add_param_group({**param_group, "params": [embedding.slot for embedding in embeddings]})
        self._embeddings.update((embedding.slot, embedding) for embedding in embeddings)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients gathered since the last step."""
        for embedding in self._embeddings.values():
            embedding.zero_grad(set_to_none)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a store is no graph of tensor operations
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Apply the rule to each row that has gradients.

        Args:
            closure: Evaluates the model again and returns the loss, as in :meth:`torch.optim.Optimizer.step`.

        Returns:
            What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Modules that share a store share its step.
        gradients: dict[int, tuple[EmbeddingStore, Any, list[tuple[Tensor, Tensor]]]] = {}
        for group, rule in [(group, self._rule(group)) for group in self.param_groups]:
            for embedding in map(self._embeddings.__getitem__, group["params"]):
                store = embedding.open_store()
                if store is None:
                    continue
                _, first, taken = gradients.setdefault(id(store), (store, rule, []))
                if first != rule:
                    raise ValueError(
                        f"embedding store {embedding.name!r} is in two groups of {type(self).__name__}, by {first} and "
                        f"by {rule}: modules that share a table share its group"
                    )
                taken.append(embedding.take_gradients())
        for store, rule, taken in gradients.values():
            ids, rows = taken[0] if len(taken) == 1 else map(torch.cat, zip(*taken, strict=True))
            store.apply_gradients(ids, rows, rule)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the groups, and the rule's state of this rank's rows, as an optimizer of :mod:`torch.optim` does."""
        packed: dict[str, Any] = super().state_dict()
        if not are_left_out():
            for number, embedding in enumerate(self._in_groups()):
                store = embedding.open_store() if embedding.is_open else None
                state = None if store is None else export_rule(store, embedding.name, self._rule_class)
                if state is not None:
                    packed["state"][number] = state
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave, or that of the same rule of :mod:`torch.optim`; collective.

        Raises:
            ValueError: The groups are others, or the state is that of another rule or of a table of another size.
        """
        known = {field.name for field in fields(self._rule_class)}
        groups = []
        for group in state_dict["param_groups"]:
            missing = sorted(known - group.keys())
            others = sorted(key for key in _NUMBERS - known if group.get(key))
            if missing or others:
                differ = f"without {', '.join(missing)}" if missing else f"with {', '.join(others)}"
                raise ValueError(f"{type(self).__name__} cannot take the state of an optimizer {differ}")
            groups.append({key: one for key, one in group.items() if key in known or key not in _NUMBERS | _HOW})
        super().load_state_dict({"state": {}, "param_groups": groups})
        for number, embedding in enumerate(self._in_groups()):
            state = state_dict["state"].get(number)
            if state:
                store = embedding.open_store()
                specs = self._rule(self.defaults).state(embedding.embedding_dim)
                import_rule(store, embedding.name, self._rule_class, specs, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseOptimizer:
        raise TypeError(_NO_COPY.format(type(self).__name__))

    def __reduce__(self) -> Any:
        raise TypeError(_NO_COPY.format(type(self).__name__))

    def _rule(self, numbers: Mapping[str, Any]) -> Any:
        return self._rule_class(**{field.name: numbers[field.name] for field in fields(self._rule_class)})

    def _in_groups(self) -> list[HasSparseGradients]:
        return [self._embeddings[slot] for group in self.param_groups for slot in group["params"]]


# Of torch.optim's groups: what changes the numbers that come out, and what does not.
_NUMBERS = frozenset(
    {"lr", "betas", "eps", "weight_decay", "lr_decay", "initial_accumulator_value", "momentum", "dampening"}
    | {"nesterov", "amsgrad", "maximize", "decoupled_weight_decay", "centered", "alpha", "rho"}
)
_HOW = frozenset(("foreach", "fused", "capturable", "differentiable"))

_NO_COPY = (
    "{0} cannot be copied or pickled, for it belongs to the tables of its modules: make one over the copied modules, "
    "{0}(model), and give it load_state_dict(optimizer.state_dict())"
)


class SparseSGD(SparseOptimizer):
    """:class:`~distgnn.optim.SGD` over stored embeddings, with the numbers of :class:`torch.optim.SGD`.

    Args:
        modules: A module or several, or groups of them.
        lr: Learning rate.
        weight_decay: L2 penalty on touched rows.
    """

    def __init__(self, modules: Modules, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(modules, SGD(lr, weight_decay))


class SparseAdagrad(SparseOptimizer):
    """:class:`~distgnn.optim.Adagrad` over stored embeddings, with the numbers of :class:`torch.optim.Adagrad`.

    Args:
        modules: A module or several, or groups of them.
        lr: Learning rate.
        lr_decay: The learning rate of step t is ``lr / (1 + (t - 1) * lr_decay)``.
        weight_decay: L2 penalty on touched rows.
        initial_accumulator_value: What the sum of squares starts from.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        modules: Modules,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        super().__init__(modules, Adagrad(lr, lr_decay, weight_decay, initial_accumulator_value, eps))


class SparseRowWiseAdagrad(SparseOptimizer):
    """:class:`~distgnn.optim.RowWiseAdagrad` over stored embeddings: one number of state a row.

    Args:
        modules: A module or several, or groups of them.
        lr: Learning rate.
        weight_decay: L2 penalty on touched rows.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        modules: Modules,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(modules, RowWiseAdagrad(lr, weight_decay, eps))


class SparseAdamW(SparseOptimizer):
    """:class:`~distgnn.optim.AdamW` over stored embeddings, with the numbers of :class:`torch.optim.AdamW`.

    Args:
        modules: A module or several, or groups of them.
        lr: Learning rate.
        betas: Decay rates of the first and second moment.
        eps: Added to the denominator.
        weight_decay: Of ``lr``, by how much touched rows shrink in a step.
    """

    def __init__(
        self,
        modules: Modules,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(modules, AdamW(lr, betas, eps, weight_decay))


class SparseAdam(SparseOptimizer):
    """:class:`~distgnn.optim.Adam` over stored embeddings, with the numbers of :class:`torch.optim.SparseAdam`.

    Args:
        modules: A module or several, or groups of them.
        lr: Learning rate.
        betas: Decay rates of the first and second moment.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        modules: Modules,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(modules, Adam(lr, betas, eps))
