"""Data sets: public, of your own files, and generated."""

from __future__ import annotations

from distgnn.data.datasets import LoadedDataset, load_dataset
from distgnn.data.generated import generate_graph
from distgnn.data.notes import DataWarning
from distgnn.data.tables.custom import load_custom_graph

__all__ = ["DataWarning", "LoadedDataset", "generate_graph", "load_custom_graph", "load_dataset"]
