"""Embeddings of a finished run: learned rows, outputs of layers, and of the model."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from distgnn.errors import ConfigError
from distgnn.nn.activations import StoredActivation
from distgnn.nn.embedding import StoredEmbedding, default_name
from distgnn.nn.inference import infer_by_layers
from distgnn.predict.answers import AnswerFile
from distgnn.predict.bundle import Bundle
from distgnn.predict.predictions import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from distgnn.data import LoadedDataset
    from distgnn.predict.bundle import Rows
    from distgnn.storage.protocols import Backend


def embed(
    run: str | Path,
    out: str | Path,
    *,
    of: str = "outputs",
    data: LoadedDataset | None = None,
    trial: int = 0,
    backend: str | Backend | None = None,
    progress: bool = False,
) -> int:
    """Write a row of numbers for every node, edge or graph; collective.

    Columns are the id, ``node``, ``edge`` or ``graph``, and the numbers, ``e0`` and so on.

    Args:
        run: The run's folder.
        out: A ``.parquet``, ``.csv``, ``.csv.gz`` or ``.tsv`` file, written by rank 0, whole or not at all.
        of: ``"outputs"``, of the model for nodes or graphs; ``"layer1"`` and so on, of a layer for the nodes of one
            graph, after its non-linearity; ``"nodes"`` or ``"edges"``, the learned rows.
        data: Whose nodes or graphs; None is what the run was trained on. Learned rows need none.
        trial: Number of the trial, from 0.
        backend: Where tables and layers are stored, and whose ranks share the work; None is the backend in use.
        progress: Show progress on stderr.

    Returns:
        How many rows were written.

    Raises:
        CheckpointNotFoundError: The run has left no model.
        ConfigError: The model has no such rows, the data does not fit it, or ``out`` has another suffix.
        DataError: The data cannot be read.
        RunWriteError: ``out`` cannot be written.
    """
    with ExitStack() as at_the_end:
        bundle = at_the_end.enter_context(Bundle(run, trial=trial, backend=backend, progress=progress))
        check(bundle, of)
        what, count, rows = at_the_end.enter_context(_opened(bundle, of, data))
        file = at_the_end.enter_context(AnswerFile(out)) if bundle.session.is_main else None
        with torch.no_grad():
            for ids in torch.split(torch.arange(count), PIECE):
                asked = ids if bundle.session.is_main or what == "graph" else ids[:0]
                found = rows(asked)
                if file is not None:
                    each: dict[str, np.ndarray[Any, Any]] = {what: ids.numpy()}
                    file.add(each | {f"e{number}": one.float().numpy() for number, one in enumerate(found.unbind(1))})
        return count


def check(bundle: Bundle, of: str) -> None:
    """Refuse rows that a model does not have.

    Raises:
        ConfigError: Names those that it has.
    """
    known = ["outputs"]
    if not bundle.task.on_graphs:
        known += [f"layer{number}" for number in range(1, bundle.model.num_layers + 1)]
    known += [f"{kind}s" for kind in _tables(bundle)]
    if of not in known:
        raise ConfigError(f"of must be one of {', '.join(known)} for run {bundle.folder}, not {of!r}")


def _tables(bundle: Bundle) -> dict[str, StoredEmbedding]:
    """Return the learned rows of nodes and edges, by what has them."""
    tables = [one for one in bundle.model.modules() if isinstance(one, StoredEmbedding)]
    return {kind: one for kind in ("node", "edge") for one in tables if one.name.endswith(f"{kind}_embedding")}


@contextmanager
def _opened(bundle: Bundle, of: str, data: LoadedDataset | None) -> Iterator[tuple[str, int, Rows]]:
    """Give what has a row each, how many there are, and what returns rows."""
    kind = of.removesuffix("s")
    if kind in {"node", "edge"}:
        table = _tables(bundle)[kind]
        assert table.num_embeddings is not None
        yield kind, table.num_embeddings, table
        return
    dataset = bundle.dataset() if data is None else data
    on_graphs = bundle.task.on_graphs
    count = len(dataset.graphs) if on_graphs else dataset.num_nodes
    opened = bundle.outputs(dataset) if of == "outputs" else _layer(bundle, dataset, int(of.removeprefix("layer")))
    with opened as rows:
        yield "graph" if on_graphs else "node", count, rows


@contextmanager
def _layer(bundle: Bundle, dataset: LoadedDataset, number: int) -> Iterator[Rows]:
    """Give what returns the outputs of a layer, from 1; all layers are computed."""
    bundle.check(dataset)
    backend = bundle.session.backend
    with bundle.stored(dataset) as (structure, features, edge_features), ExitStack() as at_the_end:
        passes = bundle.model.num_layers + bundle.model.combines_layers
        kept = [StoredActivation(name=default_name("layer"), backend=backend) for _ in range(min(number, passes - 1))]
        for layer in kept:
            at_the_end.callback(layer.close)
        last = infer_by_layers(
            bundle.model, structure, features, edge_features=edge_features, backend=backend, progress=False, layers=kept
        )
        at_the_end.callback(last.close)
        store = kept[number - 1].store if number <= len(kept) else last
        assert store is not None
        yield store.read
