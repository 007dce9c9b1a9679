"""A data set by the options of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.data.datasets import LARGE_GRAPH, load_dataset
from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from distgnn.data.datasets import LoadedDataset


def load_by_options(
    dataset: str, *, root: str | None = None, seed: int = 0, regression: bool = False, **own: str | int | None
) -> LoadedDataset:
    """Load a data set, and refuse options that do not go with it.

    Args:
        dataset: A name that :func:`distgnn.data.load_dataset` knows.
        root: Folder with the data set in PyG's layout.
        seed: Of a generated graph and of splits.
        regression: Whether labels of files are numbers to be predicted.
        own: Options of ``CustomLargeGraph``: ``edges``, ``features``, ``labels``, ``label_column``, ``num_nodes`` and
            ``num_edges``. None is as if it was not given.

    Raises:
        ConfigError: An option does not go with the data set or with the others.
        DataError: The data set cannot be loaded.
    """
    options = {name: value for name, value in own.items() if value is not None}
    if dataset != LARGE_GRAPH:
        if options:
            raise ConfigError(f"{', '.join(options)} only go with --dataset {LARGE_GRAPH}, not {dataset!r}")
        return load_dataset(dataset, root=root)
    if "edges" not in options and {"features", "labels", "label_column"} & set(options):
        raise ConfigError("features and labels belong to an edge file: give edges too")
    if "edges" in options and "num_edges" in options:
        raise ConfigError("num_edges is for generated graphs; an edge file has its own")
    if regression and "labels" in options:
        options["regression"] = True
    return load_dataset(dataset, root=root, seed=seed, **options)
