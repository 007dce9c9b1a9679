"""Partitions: who holds which nodes, cut, written, read and described."""
