"""``distgnn predict``, ``embed`` and ``evaluate``: answers of a finished run."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from distgnn.storage.protocols import Backend

_RUN = typer.Argument(help="A run's folder.", metavar="RUN")
_OUT = typer.Option(..., help="The table to write: .parquet, .csv, .csv.gz or .tsv.", metavar="FILE")
_TRIAL = typer.Option(0, help="Number of the trial, from 0.")
_BACKEND = typer.Option(
    None,
    help="Where layers are stored, a name of distgnn backends.  \\[default: memory, or pyg on several ranks]",
    envvar="DISTGNN_BACKEND",
)
_JSON = typer.Option(False, "--json", help="Print JSON, without progress.")


def predict(
    run: str = _RUN,
    *,
    out: str = _OUT,
    pairs: str = typer.Option(
        None,
        help="For a run of task link, a table whose first two columns are the pairs of nodes to answer about.",
        metavar="FILE",
    ),
    trial: int = _TRIAL,
    backend: str = _BACKEND,
    as_json: bool = _JSON,
) -> None:
    """Write what a finished run predicts for every node or graph, or for pairs of nodes.

    Example: distgnn predict runs/mine --out predictions.csv
    """
    from distgnn.predict import predict as write  # noqa: PLC0415  # --help needs no heavy imports

    with _opened(backend) as engine:
        asked = None if pairs is None else _read_pairs(Path(pairs))
        count = write(run, out, pairs=asked, trial=trial, backend=engine, progress=_shows(as_json))
        _tell(engine, count, out, as_json=as_json)


def embed(
    run: str = _RUN,
    *,
    out: str = _OUT,
    of: str = typer.Option(
        "outputs", help="outputs of the model; layer1, layer2, ... of a layer; nodes or edges, the learned rows."
    ),
    trial: int = _TRIAL,
    backend: str = _BACKEND,
    as_json: bool = _JSON,
) -> None:
    """Write a row of numbers for every node, edge or graph.

    Example: distgnn embed runs/mine --out embeddings.parquet
    """
    from distgnn.predict import embed as write  # noqa: PLC0415

    with _opened(backend) as engine:
        count = write(run, out, of=of, trial=trial, backend=engine, progress=_shows(as_json))
        _tell(engine, count, out, as_json=as_json)


def evaluate(
    run: str = _RUN,
    *,
    trial: int = _TRIAL,
    backend: str = _BACKEND,
    as_json: bool = _JSON,
) -> None:
    """Measure a finished run again, on all labels of its data and on each of its sets.

    Example: distgnn evaluate runs/mine --json
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from distgnn.predict import evaluate as measure  # noqa: PLC0415

    with _opened(backend) as engine:
        found = measure(run, trial=trial, backend=engine, progress=_shows(as_json))
        if not _is_main(engine):
            return
    if as_json:
        typer.echo(json.dumps(found))
        return
    names = list(next(iter(found.values())))
    table = Table("", *names)
    for part, metrics in found.items():
        table.add_row(part, *(f"{metrics[name]:.4g}" for name in names))
    Console().print(table)


@contextmanager
def _opened(name: str | None) -> Iterator[Backend]:
    from distgnn.distributed.rendezvous.launcher import launched_size  # noqa: PLC0415
    from distgnn.storage.registry import use  # noqa: PLC0415

    with use(name or ("memory" if launched_size() == 1 else "pyg")) as backend:
        yield backend


def _is_main(backend: Backend) -> bool:
    from distgnn.distributed.communicator import rank_and_world_size  # noqa: PLC0415

    return rank_and_world_size(backend)[0] == 0


def _tell(backend: Backend, count: int, out: str, *, as_json: bool) -> None:
    if _is_main(backend):
        typer.echo(json.dumps({"rows": count, "out": out}) if as_json else f"{count:,} rows in {out}")


def _read_pairs(path: Path) -> Tensor:
    from distgnn.data.tables.custom import read_edges  # noqa: PLC0415

    return read_edges(path, None)


def _shows(as_json: bool) -> bool:
    """Return whether somebody looks at progress."""
    return not as_json and sys.stderr.isatty()
