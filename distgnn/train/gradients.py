"""Gradients summed over ranks in a fixed order."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet, ref

import torch
from torch.nn import Module

from distgnn.distributed.communicator import all_gather_texts, during
from distgnn.errors import CallOrderError, ConfigError
from distgnn.nn.embedding import layer_parameters
from distgnn.nn.norm.sync_batch_norm import SyncBatchNorm1d

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor
    from torch.nn import Parameter

    from distgnn.distributed.communicator import Communicator


class SummedGradients(Module):
    """A module whose gradients are summed over ranks in each backward.

    It starts on every rank from rank 0's parameters and buffers; buffers are rank 0's in every forward. The order in
    which a communicator adds numbers may depend on their place in a message. So all gradients go in one, in the order
    of the module's parameters, when the last of them is there. A module that is wrapped again is the new wrapper's.

    Args:
        module: The same on every rank.
        communicator: The ranks.
        find_unused_parameters: Some ranks, or all, may have no gradient of some parameters, or of any. Then every
            backward through what forward returns, a tensor or lists, tuples and dictionaries of some, is collective.
        before: Called before ranks wait for each other in backward.

    Attributes:
        module: As given.

    Raises:
        ConfigError: Ranks have different modules, or a part of this one is wrapped already.
    """

    _live: ClassVar[WeakSet[SummedGradients]] = WeakSet()

    def __init__(
        self,
        module: Module,
        communicator: Communicator,
        *,
        find_unused_parameters: bool = False,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        if any(isinstance(part, SummedGradients) for part in module.modules()):
            raise ConfigError(
                "the gradients of this model, or of a part of it, are summed over ranks already: call Session.wrap "
                "once, with the model as it was made"
            )
        self.module = module
        self._communicator, self._before = communicator, before
        self._find_unused = find_unused_parameters
        # What stands for the rows of a table has no gradient of its own: a store sums those of its rows.
        layers = {id(each) for each in layer_parameters(module)}
        self._named = {
            name: each for name, each in module.named_parameters() if each.requires_grad and id(each) in layers
        }
        self._earlier: dict[Parameter, Tensor | None] = {}  # the gradients of earlier passes, for those of this one
        self._seen: set[Tensor] = set()
        self._summing, self._is_unsummed, self._is_awaited, self._is_replaced = True, False, False, False
        _check_same(module, communicator)
        with torch.no_grad():
            self._spread([*module.parameters(), *module.buffers()])
        # Buffers that are equal on all ranks, since they are computed from sums over ranks, need not be sent.
        synced = {id(each) for part in module.modules() if isinstance(part, SyncBatchNorm1d) for each in part.buffers()}
        self._buffers_to_send = [each for each in module.buffers() if id(each) not in synced]
        self._accumulators = [self._watched(each) for each in self._named.values()]
        own = set(self._named.values())
        for earlier in self._live:
            earlier._is_replaced |= not own.isdisjoint(earlier._named.values())  # noqa: SLF001  # its own class
        self._live.add(self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the module does.

        Raises:
            CallOrderError: The backward before this forward left out parameters, or the module was wrapped again.
        """
        if self._is_replaced:
            raise CallOrderError(
                "this model, or a part of it, was wrapped again, and its gradients are summed by the new wrapper: "
                "call what Session.wrap returned last"
            )
        if (self._seen or self._is_awaited) and torch.is_grad_enabled():
            self._forget_incomplete()
        if self._buffers_to_send:
            with torch.no_grad():
                self._spread(self._buffers_to_send)
        found = self.module(*args, **kwargs)
        if self._find_unused and torch.is_grad_enabled():
            for tensor in _tensors_of(found):
                tensor.register_hook(self._await_end)  # type: ignore[no-untyped-call]
        return found

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Add gradients up on this rank alone within; the next backward sums all of them."""
        self._summing, before = False, self._summing
        try:
            yield
        finally:
            self._summing = before

    def _watched(self, parameter: Parameter) -> object:
        view = parameter.view_as(parameter).grad_fn
        accumulator = view.next_functions[0][0] if view is not None else None
        assert accumulator is not None
        this = ref(self)  # a module that is wrapped again is this one's no more

        def begin(_gradients: tuple[Tensor, ...]) -> None:
            if (wrapper := this()) is not None and wrapper._summing and not wrapper._is_replaced:  # noqa: SLF001  # its own class
                wrapper._begin(parameter)  # noqa: SLF001

        def end(parameter: Tensor) -> None:
            if (wrapper := this()) is not None and not wrapper._is_replaced:  # noqa: SLF001
                wrapper._end(parameter)  # noqa: SLF001

        accumulator.register_prehook(begin)
        parameter.register_post_accumulate_grad_hook(end)  # type: ignore[no-untyped-call]
        return accumulator  # it lives as long as somebody knows it

    def _begin(self, parameter: Parameter) -> None:
        """Put what earlier passes have left aside, so that this one's gradient is summed alone."""
        if self._find_unused:
            self._await_end()
        if parameter not in self._earlier:
            self._earlier[parameter] = None
            if not self._is_unsummed:
                self._earlier[parameter], parameter.grad = parameter.grad, None

    def _await_end(self, _gradient: Tensor | None = None) -> None:
        """Sum at the end of this backward, which may reach no parameter at all."""
        if self._summing and not self._is_replaced and not self._is_awaited:
            self._is_awaited = True
            torch.autograd.Variable._execution_engine.queue_callback(self._sum_found)  # noqa: SLF001  # torch's own way

    def _end(self, parameter: Tensor) -> None:
        if not self._summing:
            self._is_unsummed = True
        else:
            self._seen.add(parameter)
            if not self._find_unused and len(self._seen) == len(self._asked()):
                self._sum(self._asked())

    def _asked(self) -> list[Parameter]:
        return [each for each in self._named.values() if each.requires_grad]

    def _sum_found(self) -> None:
        """Sum at the end of a backward that some parameters may have no part in."""
        self._is_awaited = False
        asked = self._asked()
        found = torch.tensor([each in self._seen for each in asked], dtype=torch.int32)
        with during("the sum of gradients"):
            anywhere = self._communicator.all_reduce(found, "max").tolist()
        used = [each for each, there in zip(asked, anywhere, strict=True) if there]
        for each in used:
            if each not in self._seen:
                self._earlier[each], each.grad = each.grad, torch.zeros_like(each)
        if used:
            self._sum(used)

    def _sum(self, parameters: list[Parameter]) -> None:
        self._before()
        earlier = dict(self._earlier)
        self._earlier.clear()
        self._seen.clear()
        self._is_unsummed = False
        with torch.no_grad():
            for group in _by_dtype([each.grad for each in parameters if each.grad is not None]):
                with during("the sum of gradients"):
                    total = self._communicator.all_reduce(torch.cat([each.flatten() for each in group]))
                for gradient, part in _dealt_out(total, group):
                    gradient.copy_(part)
            for parameter, before in earlier.items():
                if before is not None and parameter.grad is not None:
                    parameter.grad = before.add_(parameter.grad)

    def _spread(self, tensors: Iterable[Tensor]) -> None:
        for group in _by_dtype(tensors):
            with during("a broadcast of rank 0's parameters and buffers"):
                flat = self._communicator.broadcast(torch.cat([each.flatten() for each in group]))
            for tensor, part in _dealt_out(flat, group):
                if not torch.equal(tensor, part):  # autograd may hold it for a backward that is to come
                    tensor.copy_(part)

    def _forget_incomplete(self) -> None:
        left_out = [name for name, each in self._named.items() if each.requires_grad and each not in self._seen]
        self._earlier.clear()
        self._seen.clear()
        self._is_awaited = False
        if self._find_unused or not left_out:
            return  # an error has ended it
        raise CallOrderError(
            f"the last backward gave {len(left_out)} of {len(self._named)} parameters no gradient, among them "
            f"{left_out[0]!r}, so that none was summed over ranks: leave them out of training "
            "(requires_grad_(False)), or call Session.wrap with find_unused_parameters=True"
        )


def _tensors_of(found: object) -> Iterator[Tensor]:
    """Go through the tensors that a forward returned and a backward may begin from."""
    if isinstance(found, torch.Tensor):
        if found.requires_grad:
            yield found
    elif isinstance(found, (list, tuple, dict)):
        for each in found.values() if isinstance(found, dict) else found:
            yield from _tensors_of(each)


def _check_same(module: Module, communicator: Communicator) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    own = "\n".join(f"{name} {list(each.shape)} {each.dtype}" for name, each in tensors)
    everyone = all_gather_texts(communicator, own)
    for rank, text in enumerate(everyone):
        if text != everyone[0]:
            lines = [dict.fromkeys(one.split("\n")) for one in (everyone[0], text)]
            first, other = ([line for line in one if line not in two] for one, two in (lines, lines[::-1]))
            raise ConfigError(
                f"ranks wrap different models: rank 0 has {(first or ['no more'])[0]}, rank {rank} "
                f"{(other or ['no more'])[0]}; make the same model on every rank"
            )


def _by_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for each in tensors:
        groups.setdefault(each.dtype, []).append(each)
    return list(groups.values())


def _dealt_out(flat: Tensor, tensors: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for tensor, part in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
        yield tensor, part.view_as(tensor)
