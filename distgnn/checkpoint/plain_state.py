"""State dictionaries as JSON and tensors, without a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distgnn.checkpoint.tensors import NAMES
from distgnn.errors import CheckpointFormatError

if TYPE_CHECKING:
    from collections.abc import MutableMapping


def encode(state: object, tensors: MutableMapping[str, Tensor], name: str) -> object:
    """Write a nest of dictionaries, lists, tuples, tensors, numbers and texts as what JSON can hold.

    Args:
        state: The nest.
        tensors: Its tensors are added here, on the CPU, each with at least one dimension.
        name: What the nest is, for the names of tensors.

    Raises:
        CheckpointFormatError: Something else is in it; the text says what and where.
    """
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    if isinstance(state, Tensor) and state.layout == torch.strided and state.dtype in NAMES:
        while name in tensors:
            name += "'"
        tensors[name] = state.detach().cpu().reshape(state.shape or 1)
        return {"tensor" if state.dim() else "scalar": name}
    if isinstance(state, Mapping):
        pairs = state.items()
        return {"items": [[encode(key, tensors, name), encode(one, tensors, f"{name}/{key}")] for key, one in pairs]}
    if isinstance(state, (list, tuple)):
        found = [encode(one, tensors, f"{name}/{number}") for number, one in enumerate(state)]
        return {"tuple": found} if isinstance(state, tuple) else found
    raise CheckpointFormatError(
        f"{name} is {getattr(state, 'dtype', type(state).__name__)}, and a checkpoint holds dense tensors of the usual "
        "types, numbers, texts, lists and dictionaries of these: give another state_dict()"
    )


def decode(found: object, tensors: Mapping[str, Tensor]) -> object:
    """Do the reverse of :func:`encode`.

    Raises:
        CheckpointFormatError: It is not what :func:`encode` writes.
    """
    if isinstance(found, list):
        return [decode(one, tensors) for one in found]
    if not isinstance(found, dict):
        return found
    try:
        ((kind, content),) = found.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "scalar":
            return tensors[content].reshape(())
        if kind == "items":
            return {decode(key, tensors): decode(one, tensors) for key, one in content}
        if kind == "tuple":
            return tuple(decode(one, tensors) for one in content)
    except CheckpointFormatError:
        raise
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointFormatError(f"a state in the manifest cannot be understood ({error!r})") from error
    raise CheckpointFormatError(f"a state in the manifest has an entry of the unknown kind {kind!r}")


def tensor_names(found: object) -> list[str]:
    """List the tensors that an encoded state refers to."""
    if isinstance(found, list):
        return [name for one in found for name in tensor_names(one)]
    if isinstance(found, dict):
        own = [found[kind] for kind in ("tensor", "scalar") if isinstance(found.get(kind), str)]
        return own + [name for one in found.values() for name in tensor_names(one)]
    return []
