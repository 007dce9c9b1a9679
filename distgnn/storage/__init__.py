"""Stores: their contract, and what they are built from."""
