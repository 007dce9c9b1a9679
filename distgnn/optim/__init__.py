"""Sparse optimizers over stored embeddings, and the row-wise rules that they apply.

The optimizers take modules and behave as :mod:`torch.optim`'s::

    sparse = SparseAdam(model, lr=0.01)
    loss.backward()
    sparse.step()

The rules are in :data:`RULES`, by the names that options and files call them.

:func:`clip_grad_norm_` clips the gradients of layers and rows together.

:func:`take_rows`, :func:`put_rows` and :func:`sum_by_id` are what a backend moves and sums rows with.
"""

from distgnn.optim.clipping import clip_grad_norm_
from distgnn.optim.rules import RULES, SGD, Adagrad, Adam, AdamW, RowWiseAdagrad
from distgnn.optim.sparse import (
    SparseAdagrad,
    SparseAdam,
    SparseAdamW,
    SparseOptimizer,
    SparseRowWiseAdagrad,
    SparseSGD,
)
from distgnn.storage.toolkit.rows import put_rows, sum_by_id, take_rows

__all__ = [
    "RULES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "RowWiseAdagrad",
    "SparseAdagrad",
    "SparseAdam",
    "SparseAdamW",
    "SparseOptimizer",
    "SparseRowWiseAdagrad",
    "SparseSGD",
    "clip_grad_norm_",
    "put_rows",
    "sum_by_id",
    "take_rows",
]
