"""Gradients of stored rows between backward and step.

No tensor among a module's parameters has the gradients of its rows. So a parameter of one element stands for them. Each
backward pass adds a number to its gradient that is too small to be seen in any norm, and what becomes of that number
tells what became of the gradients: gone, ``zero_grad()`` of a module or of another optimizer has dropped them; smaller,
``clip_grad_norm_`` or a ``GradScaler`` has scaled them, and so are those of the rows.
"""

from __future__ import annotations

import math
import warnings
from threading import Lock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from distgnn.storage.toolkit.rows import sum_by_id

_SIGN = 1e-30  # squares of it vanish; a loss scale of 2**24 leaves it a normal number

Pairs = list[tuple[Tensor, Tensor]]


class RowGradients:
    """The gathered gradients of one table since its last step.

    Args:
        name: The table's.
    """

    def __init__(self, name: str) -> None:
        # It stands for the table in an optimizer's groups, and is no parameter: GradScaler divides what each optimizer
        # has, and the optimizer of the layers is given all parameters.
        self.slot = torch.zeros(1, device="cpu")
        self.name = name
        self._arriving: dict[int, Pairs] = {}  # of backward passes that have not reached the parameter yet
        self._gathered: Pairs = []
        self._passes = 0  # whose numbers are in the parameter's gradient
        self._version = 0
        self._most = 0
        self._before: tuple[int, float] = (0, 0.0)  # what shows whether an optimizer has moved the parameter
        self._watched: Tensor | None = None
        self._warned = False
        self._lock = Lock()  # threads may go backward at the same time

    def __reduce__(self) -> tuple[type[RowGradients], tuple[str]]:
        return RowGradients, (self.name,)  # a copy of a module has gathered nothing

    def watch(self, handle: Tensor) -> None:
        """Follow the gradient of the parameter that stands for the rows."""
        if handle is not self._watched and isinstance(handle, Parameter) and handle.requires_grad:
            handle.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            self._watched = handle

    def add(self, handle: Tensor, ids: Tensor, rows: Tensor, most: int) -> Tensor:
        """Gather gradients ``[K, D]`` of ids ``[K]``, and return what to add to the parameter's.

        Args:
            handle: The parameter.
            ids: Kept as they are.
            rows: Kept as they are.
            most: Keep no more rows than this, or than a pass brings: without an optimizer they would pile up.
        """
        if handle is not self._watched:  # a wrapper has put another tensor in its place
            self._gathered.append((ids, rows))
            self._merge(most)
            return torch.zeros_like(handle)
        self._drop_zeroed(handle)
        arriving = self._arriving.setdefault(_backward_pass(), [])
        arriving.append((ids, rows))
        self._most = most
        return torch.full_like(handle, _SIGN if len(arriving) == 1 else 0.0)

    def take(self, handle: Tensor, *, is_step: bool) -> Pairs:
        """Return what was gathered, and forget it."""
        if handle is self._watched:
            self._arriving.clear()  # left by torch.autograd.grad, which adds to no gradient
            # Of optimizers that each step and zero in turn, one has zeroed all before the next steps: what is gone
            # after a step of the parameter's own is applied; a new backward pass drops it.
            if not is_step:
                self._gathered = []
            elif not self._gathered:
                pass
            elif handle.grad is None or _number(handle.grad) == 0:
                if _state(handle) == self._before:
                    self._gathered = []
            else:
                # A norm that was not exceeded leaves its mark too; so does an exchange between ranks.
                was_written = not dist.is_initialized() and _version(handle.grad) != self._version
                self._rescale(self._scale(handle.grad), was_written=was_written)
            if handle.grad is not None:
                handle.grad = None
            self.slot.grad = None
        taken, self._gathered = self._gathered + [pair for pairs in self._arriving.values() for pair in pairs], []
        self._arriving.clear()
        self._passes = 0
        return taken

    def merged(self, handle: Tensor) -> Tensor | None:
        """Return the gradients, one row an id, to be scaled in place; None where there are none."""
        if handle is self._watched:
            self._drop_zeroed(handle)
        if not self._gathered:
            return None
        self._merge(0)
        return self._gathered[0][1]

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it reads numbers
    def _arrived(self, handle: Tensor) -> None:
        """Count a backward pass in, when its number is in the parameter's gradient."""
        if handle.grad is None or handle.grad.is_meta:
            return
        with self._lock:
            self._gathered += self._arriving.pop(_backward_pass(), [])
            self._merge(self._most)
            self._passes, self._version = self._passes + 1, _version(handle.grad)
            self._before = _state(handle)
            self.slot.grad = torch.full_like(self.slot, _SIGN)

    def _drop_zeroed(self, handle: Tensor) -> None:
        """Forget what was gathered, where the parameter's gradient is gone."""
        if self._gathered and (handle.grad is None or _number(handle.grad) == 0):
            self._gathered.clear()
            self._passes = 0

    def _scale(self, grad: Tensor) -> float:
        """Tell by how much the gradients were scaled, by the parameter's and by the slot's."""
        by_module = _number(grad) / (self._passes * _SIGN)
        by_optimizer = 1.0 if self.slot.grad is None else _number(self.slot.grad) / _SIGN
        if dist.is_initialized() and math.isfinite(by_module):
            # Ranks have summed it, or averaged it, each with or without a number of its own.
            parts = by_module * dist.get_world_size()
            by_module = 1.0 if abs(parts - round(parts)) < 1e-4 and round(parts) else by_module
        if abs(by_optimizer - 1) < 1e-5:
            return by_module
        return by_optimizer if abs(by_module - 1) < 1e-5 else min(by_module, by_optimizer)

    def _rescale(self, scale: float, *, was_written: bool = False) -> None:
        if abs(scale - 1) < 1e-5:
            if was_written:
                self._warn(
                    "the gradients of parameters() were written to before step(), as clip_grad_value_ and "
                    f"clip_grad_norm_ do, and those of embedding store {self.name!r} are as they were: they are no "
                    "part of them. Use distgnn.optim.clip_grad_norm_(model, max_norm), which counts layers and rows "
                    "together"
                )
            return
        if math.isfinite(scale):  # else all gradients are lost, which is said elsewhere
            self._warn(
                f"the gradients of parameters() were scaled by {scale:.3g} before step(), and those of embedding store "
                f"{self.name!r} with them. If that was clip_grad_norm_: the rows are not in its norm. Use "
                "distgnn.optim.clip_grad_norm_(model, max_norm), which counts layers and rows together"
            )
        self._gathered = [(ids, rows * scale) for ids, rows in self._gathered]
        if math.isfinite(scale) and not all(bool(rows.isfinite().all()) for _, rows in self._gathered):
            self._gathered = [(ids[:0], rows[:0]) for ids, rows in self._gathered]  # as a GradScaler skips a step

    def _merge(self, most: int) -> None:
        counts = [ids.numel() for ids, _ in self._gathered]
        if sum(counts) > max(counts[-1] if most else 0, most):
            self._gathered = [sum_by_id(*joined(self._gathered))]

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(text, stacklevel=2)


def joined(pairs: Pairs, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Put ids ``[K]`` and gradients ``[K, D]`` of several passes after each other.

    Args:
        pairs: At least one.
        dtype: Of the rows, if they are all of one type; else it is float32.
    """
    ids, rows = zip(*pairs, strict=True)
    if len(ids) == 1:
        return ids[0], rows[0]
    kinds = {one.dtype for one in rows}
    wide = (dtype or rows[0].dtype) if len(kinds) == 1 else torch.float32
    return torch.cat(ids), torch.cat([one.to(wide) for one in rows])


def _backward_pass() -> int:
    """Number the running backward pass, of which every thread may have its own."""
    return torch._C._current_graph_task_id()  # noqa: SLF001  # it has no public name


def _number(grad: Tensor) -> float:
    return float(grad.detach())


def _state(handle: Tensor) -> tuple[int, float]:
    return _version(handle), _number(handle)  # optimizers that write to .data leave the version as it was


def _version(grad: Tensor) -> int:
    return grad._version  # noqa: SLF001  # it has no public name; autograd's messages show it
