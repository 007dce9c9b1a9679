"""Area under the receiver operating characteristic, of logits as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torchmetrics

if TYPE_CHECKING:
    from torch import Tensor


class AreaUnderCurve(torchmetrics.Metric):
    """How often a positive scores above a negative, by scikit-learn.

    torchmetrics' own puts logits through a sigmoid, which makes equals of the large ones.
    """

    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, *, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.add_state("preds", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in scores ``[K]``, and labels, 1 and 0."""
        self.preds.append(preds)
        self.target.append(target)

    def compute(self) -> Tensor:
        """Return the area; NaN where one of the classes is missing."""
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415  # it takes as long as torch to import, for links alone

        preds, target = torch.cat(self.preds), torch.cat(self.target)
        return torch.tensor(roc_auc_score(target.numpy(), preds.numpy()), dtype=torch.float64)
