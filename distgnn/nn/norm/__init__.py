"""Normalization over ranks."""
