"""The update rules as :class:`torch.optim.Optimizer` over the stored embeddings of modules."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from distgnn.optim.rules import SGD, Adagrad, Adam, RowWiseAdagrad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from distgnn.protocols import EmbeddingStore


@runtime_checkable
class HasSparseGradients(Protocol):
    """What an optimizer here needs of a module: :class:`distgnn.nn.StoredEmbedding` has it."""

    handle: Tensor  # stands for the module in param_groups; holds no elements

    def open_store(self) -> EmbeddingStore | None:
        """Return the store, or None while its size is not known."""
        ...

    def take_gradients(self) -> tuple[Tensor, Tensor]:
        """Return ids ``[K]`` and gradients ``[K, D]`` gathered since the last call, and forget them."""
        ...


class SparseOptimizer(Optimizer):
    """Base of the optimizers here: one row-wise rule for every stored embedding of some modules.

    A step takes the gradients of all backward passes since the last one, sums them by id and applies the rule once to
    each row that has one. Gradients are used once: a forgotten ``zero_grad()`` does not apply them again. With several
    ranks ``step()`` is a collective call; a rank whose batch was empty calls it all the same.

    ``param_groups`` holds the rule's numbers, so that learning rate schedulers work. The rule's state (momenta, sums)
    lives in the stores beside the rows, not in ``state_dict()``. :class:`torch.amp.GradScaler` does not step them: use
    bfloat16 where float16 would need it.

    Args:
        modules: A module or several; their stored embeddings are found as ``modules()`` lists them.
        rule: The rule with its numbers.

    Raises:
        ValueError: The modules have no stored embedding.
    """

    def __init__(self, modules: torch.nn.Module | Iterable[torch.nn.Module], rule: Any) -> None:
        roots = [modules] if isinstance(modules, torch.nn.Module) else list(modules)
        found = dict.fromkeys(module for root in roots for module in root.modules())
        self._embeddings = [module for module in found if isinstance(module, HasSparseGradients)]
        if not self._embeddings:
            names = ", ".join(type(root).__name__ for root in roots) or "no module"
            raise ValueError(
                f"{type(self).__name__} found no stored embedding in {names}: "
                "pass a model made with use_dist_embedding=True, or a StoredEmbedding"
            )
        self._rule_class = type(rule)
        super().__init__([embedding.handle for embedding in self._embeddings], asdict(rule))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients gathered since the last step."""
        del set_to_none  # no handle ever has a gradient
        for embedding in self._embeddings:
            embedding.take_gradients()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch's has overloads
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
        group = self.param_groups[0]
        rule = self._rule_class(**{field.name: group[field.name] for field in fields(self._rule_class)})
        # Modules that share a store share its step.
        gradients: dict[int, tuple[EmbeddingStore, list[tuple[Tensor, Tensor]]]] = {}
        for embedding in self._embeddings:
            store = embedding.open_store()
            if store is not None:
                gradients.setdefault(id(store), (store, []))[1].append(embedding.take_gradients())
        for store, taken in gradients.values():
            ids, rows = taken[0] if len(taken) == 1 else map(torch.cat, zip(*taken, strict=True))
            store.apply_gradients(ids, rows, rule)
        return loss


class SparseSGD(SparseOptimizer):
    """:class:`~distgnn.optim.SGD` over stored embeddings, with the numbers of :class:`torch.optim.SGD`.

    Args:
        modules: A module or several.
        lr: Learning rate.
        weight_decay: L2 penalty on touched rows.
    """

    def __init__(
        self, modules: torch.nn.Module | Iterable[torch.nn.Module], lr: float = 1e-3, weight_decay: float = 0.0
    ) -> None:
        super().__init__(modules, SGD(lr, weight_decay))


class SparseAdagrad(SparseOptimizer):
    """:class:`~distgnn.optim.Adagrad` over stored embeddings, with the numbers of :class:`torch.optim.Adagrad`.

    Args:
        modules: A module or several.
        lr: Learning rate.
        lr_decay: The learning rate of step t is ``lr / (1 + (t - 1) * lr_decay)``.
        weight_decay: L2 penalty on touched rows.
        initial_accumulator_value: What the sum of squares starts from.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        modules: torch.nn.Module | Iterable[torch.nn.Module],
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
        modules: A module or several.
        lr: Learning rate.
        weight_decay: L2 penalty on touched rows.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        modules: torch.nn.Module | Iterable[torch.nn.Module],
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(modules, RowWiseAdagrad(lr, weight_decay, eps))


class SparseAdam(SparseOptimizer):
    """:class:`~distgnn.optim.Adam` over stored embeddings, with the numbers of :class:`torch.optim.SparseAdam`.

    Args:
        modules: A module or several.
        lr: Learning rate.
        betas: Decay rates of the first and second moment.
        eps: Added to the denominator.
    """

    def __init__(
        self,
        modules: torch.nn.Module | Iterable[torch.nn.Module],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(modules, Adam(lr, betas, eps))
