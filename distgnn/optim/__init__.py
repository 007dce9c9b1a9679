"""Sparse optimizers over stored embeddings, and the row-wise rules that they apply.

The optimizers take modules and behave as :mod:`torch.optim`'s::

    sparse = SparseAdam(model, lr=0.01)
    loss.backward()
    sparse.step()
"""

from distgnn.optim.rules import SGD, Adagrad, Adam, RowWiseAdagrad
from distgnn.optim.sparse import SparseAdagrad, SparseAdam, SparseOptimizer, SparseRowWiseAdagrad, SparseSGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "RowWiseAdagrad",
    "SparseAdagrad",
    "SparseAdam",
    "SparseOptimizer",
    "SparseRowWiseAdagrad",
    "SparseSGD",
]
