"""Checkpoints: folders that are whole or not there at all.

* :mod:`~distgnn.checkpoint.checkpoint`: what is saved and loaded, and in which order,
* :mod:`~distgnn.checkpoint.writer`, :mod:`~distgnn.checkpoint.reader`: a rank's rows, a block at a time,
* :mod:`~distgnn.checkpoint.manifest`: what is where, with checksums; written last,
* :mod:`~distgnn.checkpoint.folder`: which checkpoint is the last, and which are removed,
* :mod:`~distgnn.checkpoint.plain_state`, :mod:`~distgnn.checkpoint.random_state`: states without a pickle,
* :mod:`~distgnn.checkpoint.together`: work that fails on all ranks when it fails on one.
"""

from distgnn.checkpoint.checkpoint import Checkpoint, Stateful
from distgnn.checkpoint.folder import latest_checkpoint, prune_checkpoints
from distgnn.checkpoint.manifest import read_manifest

__all__ = ["Checkpoint", "Stateful", "latest_checkpoint", "prune_checkpoints", "read_manifest"]
