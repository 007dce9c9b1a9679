"""Graphs and features in stores, in the forms that PyG's loaders take."""

from distgnn.graph.feature_store import StoreFeatures, as_feature_store, as_tensor_store
from distgnn.graph.inference import infer_by_layers
from distgnn.graph.partition.cut import batch_halo, cut_part, edge_partition, load_part, open_part
from distgnn.graph.partition.dgl import partition_from_dgl, partition_to_dgl
from distgnn.graph.partition.partitioner import partition_graph
from distgnn.graph.partition.reader import Partition, load_new_ids, open_partition
from distgnn.graph.partition.report import PartitionReport, PartSummary
from distgnn.graph.sampling.loader import link_neighbor_loader, neighbor_loader
from distgnn.graph.sampling.neighbor_sampler import NeighborSampler
from distgnn.graph.sampling.weights import open_in_degrees, weighted_messages

__all__ = [
    "NeighborSampler",
    "PartSummary",
    "Partition",
    "PartitionReport",
    "StoreFeatures",
    "as_feature_store",
    "as_tensor_store",
    "batch_halo",
    "cut_part",
    "edge_partition",
    "infer_by_layers",
    "link_neighbor_loader",
    "load_new_ids",
    "load_part",
    "neighbor_loader",
    "open_in_degrees",
    "open_part",
    "open_partition",
    "partition_from_dgl",
    "partition_graph",
    "partition_to_dgl",
    "weighted_messages",
]
