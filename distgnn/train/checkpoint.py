"""The former place of :mod:`distgnn.checkpoint`."""

import warnings

from distgnn.checkpoint import Checkpoint, Stateful, latest_checkpoint, prune_checkpoints, read_manifest

__all__ = ["Checkpoint", "Stateful", "latest_checkpoint", "prune_checkpoints", "read_manifest"]

warnings.warn("distgnn.train.checkpoint is distgnn.checkpoint now: import it from there", FutureWarning, stacklevel=2)
