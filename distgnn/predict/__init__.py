"""Answers of finished runs: predictions, embeddings and metrics, under the ids of the data."""

from typing import TYPE_CHECKING

from distgnn._lazy import lazy_names

if TYPE_CHECKING:
    from distgnn.predict.bundle import Bundle
    from distgnn.predict.embeddings import embed
    from distgnn.predict.evaluation import evaluate
    from distgnn.predict.predictions import predict

__all__ = ["Bundle", "embed", "evaluate", "predict"]

__getattr__ = lazy_names(
    __name__,
    {"bundle": ("Bundle",), "embeddings": ("embed",), "evaluation": ("evaluate",), "predictions": ("predict",)},
)
