"""Sums of messages: layouts, kernels, and which layers they serve."""
