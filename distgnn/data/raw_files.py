"""Where the raw files of a public data set lie, and the folder that PyTorch Geometric makes of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import aiohttp
import fsspec.config  # type: ignore[import-untyped]
import torch_geometric
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]

from distgnn.errors import DataFormatError, DatasetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch_geometric.data import InMemoryDataset
    from torch_geometric.datasets import Planetoid, TUDataset

DATA_VARIABLE = "DISTGNN_DATA"
CACHE_VARIABLE = "DISTGNN_CACHE"
BUNDLED = ("MUTAG", "Cuneiform")  # GraKeL's wheel carries them for its own tests

_CONNECT_SECONDS, _SILENCE_SECONDS = 5, 10
_DOWNLOAD_ERRORS = (OSError, FSTimeoutError, aiohttp.ClientError, zipfile.BadZipFile)
_FORMAT_ERRORS = (ValueError, IndexError, KeyError, RuntimeError, EOFError, UnpicklingError)


@dataclass(frozen=True)
class PublicDataset:
    """A data set that PyG can download.

    Attributes:
        name: Its name.
        kind: PyG's class for it.
        files: The raw files that it cannot do without.
        source: Where the files are to be had.
    """

    name: str
    kind: type[TUDataset | Planetoid]
    files: tuple[str, ...]
    source: str


def find_raw_files(dataset: PublicDataset, root: Path | None) -> Path | None:
    """Find the folder with the raw files: ``root/NAME/raw``, ``$DISTGNN_DATA/NAME/raw`` or GraKeL's.

    Args:
        dataset: What to find.
        root: Where the caller keeps data sets, if anywhere.

    Returns:
        The first of the folders that has all the files, or ``None``.
    """
    homes = [root, Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None]
    folders = [home / dataset.name / "raw" for home in homes if home is not None]
    grakel = find_spec("grakel") if dataset.name in BUNDLED else None
    if grakel is not None:
        folders += [Path(place, "tests", "data", dataset.name) for place in grakel.submodule_search_locations or ()]
    return next((folder for folder in folders if all((folder / file).is_file() for file in dataset.files)), None)


def open_dataset(dataset: PublicDataset, root: Path | None, **options: bool) -> InMemoryDataset:
    """Open a data set with PyG, from raw files on this machine or else from the internet.

    PyG's processed files go beside raw files in ``root``; everything else goes into the cache, ``$DISTGNN_CACHE`` or
    ``~/.cache/distgnn``, so that ``$DISTGNN_DATA`` is never written to. Any number of processes may do this at once.

    Args:
        dataset: What to open.
        root: Where the caller keeps data sets, if anywhere.
        options: Passed to PyG's class; they must not change the processed files.

    Raises:
        DatasetNotFoundError: The files are not on this machine, and the download failed.
        DataFormatError: PyG cannot read the files.
    """
    raw = find_raw_files(dataset, root)
    home = root if root is not None and raw == root / dataset.name / "raw" else _cache_home(dataset.name, raw)
    if not (home / dataset.name / "processed" / "data.pt").is_file():
        _process(dataset, raw, home)
    return dataset.kind(str(home), dataset.name, **options)


def _process(dataset: PublicDataset, raw: Path | None, home: Path) -> None:
    """Let PyG work in a draft folder, and move what it made into place in one step each."""
    (home / dataset.name).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home, prefix="draft-") as draft:
        if raw is not None:
            _copy_files(raw, Path(draft, dataset.name, "raw"))
        try:
            with _impatient_downloads():
                dataset.kind(draft, dataset.name)
        except _DOWNLOAD_ERRORS as error:
            raise DatasetNotFoundError(_how_to_get(dataset, error)) from error
        except _FORMAT_ERRORS as error:
            raise DataFormatError(
                f"the files of {dataset.name} in {raw or home} cannot be read by PyG's {dataset.kind.__name__} "
                f"({error}); take them again from {dataset.source}"
            ) from error
        for part in ("raw", "processed"):
            with suppress(OSError):  # another process was first, and made the same
                Path(draft, dataset.name, part).rename(home / dataset.name / part)


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def _cache_home(name: str, raw: Path | None) -> Path:
    cache = cache_folder()
    if raw is None:
        return cache / f"{name}-downloaded"
    digest = hashlib.sha256(torch_geometric.__version__.encode())
    for file in sorted(file for file in raw.iterdir() if file.is_file()):
        digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return cache / f"{name}-{digest.hexdigest()[:12]}"


@contextmanager
def _impatient_downloads() -> Iterator[None]:
    """Make fsspec, through which PyG downloads, give up on a silent server and heed ``HTTPS_PROXY``."""
    timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
    before = fsspec.config.conf.get("http", {})
    fsspec.config.conf["http"] = {"client_kwargs": {"timeout": timeout, "trust_env": True}, **before}
    try:
        yield
    finally:
        fsspec.config.conf["http"] = before


def _how_to_get(dataset: PublicDataset, error: Exception) -> str:
    name = dataset.name
    reason = str(error) or str(error.__cause__ or type(error).__name__)
    bundled = f', or get {name} with: pip install "distgnn[demo]"' if name in BUNDLED else ""
    return (
        f"{name} is not on this machine, and downloading it failed ({reason}); "
        f"put {', '.join(dataset.files)} and the files that come with them, from {dataset.source}, into DIR/{name}/raw "
        f"and give DIR as {DATA_VARIABLE} or as root (--root){bundled}"
    )


def cache_folder() -> Path:
    """Return where processed and downloaded data sets go."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "distgnn")
