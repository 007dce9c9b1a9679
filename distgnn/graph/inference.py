"""Layer-wise inference over a stored graph."""

from distgnn.nn.inference import LayeredModel, infer_by_layers

__all__ = ["LayeredModel", "infer_by_layers"]
