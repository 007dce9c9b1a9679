"""The random number generators of a process, as a state that can be saved."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from distgnn.errors import CheckpointFormatError


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators, of the CPU and of the CUDA device in use, of NumPy's and of Python's."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the state of a generator that others may use
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": (version, torch.tensor(words), gauss),
    }


def set_random_state(state: Any) -> None:
    """Go on from what :func:`random_state` gave.

    Raises:
        CheckpointFormatError: It is something else.
    """
    try:
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointFormatError(f"the random numbers of the checkpoint cannot be used ({error!r})") from error
