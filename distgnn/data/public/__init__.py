"""Public data sets, read from their raw files."""
