"""Graphs and features in stores, in the forms that PyG's loaders take."""

from distgnn.graph.feature_store import StoreFeatures, as_feature_store, as_tensor_store

__all__ = ["StoreFeatures", "as_feature_store", "as_tensor_store"]
