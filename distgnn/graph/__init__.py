"""Graphs and features in stores, in the forms that PyG's loaders take."""

from distgnn.graph.feature_store import StoreFeatures, as_feature_store, as_tensor_store
from distgnn.graph.loader import link_neighbor_loader, neighbor_loader
from distgnn.graph.neighbor_sampler import NeighborSampler
from distgnn.graph.weights import open_in_degrees, weighted_messages

__all__ = [
    "NeighborSampler",
    "StoreFeatures",
    "as_feature_store",
    "as_tensor_store",
    "link_neighbor_loader",
    "neighbor_loader",
    "open_in_degrees",
    "weighted_messages",
]
