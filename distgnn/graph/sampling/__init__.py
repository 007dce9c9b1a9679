"""Neighbor sampling over stored graphs, and loaders of batches."""
