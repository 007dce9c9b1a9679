"""Raw and prepared files of public data sets."""

from __future__ import annotations

import hashlib
import os
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import aiohttp
import fsspec.config  # type: ignore[import-untyped]
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch_geometric.io import fs

from distgnn.data.tables.files import check_file
from distgnn.errors import DataFormatError, DatasetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

DATA_VARIABLE = "DISTGNN_DATA"
CACHE_VARIABLE = "DISTGNN_CACHE"
BUNDLED = ("MUTAG", "Cuneiform")  # GraKeL's wheel carries them for its own tests

_CONNECT_SECONDS, _SILENCE_SECONDS = 5, 10
_DOWNLOAD_ERRORS = (OSError, FSTimeoutError, aiohttp.ClientError, zipfile.BadZipFile)
_FORMAT = b"1"  # of what is kept; another number makes it anew


@dataclass(frozen=True)
class PublicDataset:
    """A data set that can be downloaded.

    Attributes:
        name: Its name.
        files: The raw files that it cannot do without.
        source: Where the files are to be had: a ``.zip`` of a folder of its name, or the folder of the files.
    """

    name: str
    files: tuple[str, ...]
    source: str

    @property
    def prefix(self) -> str:
        """What the names of all its files begin with."""
        first, last = min(self.files), max(self.files)
        return next((first[:i] for i in range(len(first)) if first[i] != last[i]), first)


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
    downloaded = cache_folder() / f"{dataset.name}-downloaded" / dataset.name / "raw"
    folders.append(downloaded)
    # Targets that are numbers stand in graph_attributes; the reader says what to do about them.
    return next(
        (
            folder
            for folder in folders
            if all(
                any((folder / name).is_file() for name in (file, file.replace("_graph_labels.", "_graph_attributes.")))
                for file in dataset.files
            )
        ),
        None,
    )


def raw_files(dataset: PublicDataset, root: Path | None) -> Path:
    """Find the folder with the raw files, or download them into the cache.

    Raises:
        DatasetNotFoundError: The files are not on this machine, and the download failed.
    """
    found = find_raw_files(dataset, root)
    return _download(dataset) if found is None else found


def kept(dataset: PublicDataset, raw: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Give what was made of raw files before, or make it and keep it for the next time.

    It is kept in the cache, as safetensors, under a digest of the files' content, so that edited files are read again,
    and the folder of the raw files is only read.

    Raises:
        DataFormatError: A file is larger than memory, or what ``make`` raises.
    """
    path = cache_folder() / f"{dataset.name}-{_digest(dataset, raw)}.safetensors"
    if path.is_file():
        with suppress(SafetensorError, OSError):
            return load_file(path)
    made = {name: tensor.contiguous() for name, tensor in make().items()}
    with suppress(OSError):  # a cache that cannot be written to is no reason to stop
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix="draft-") as draft:
            save_file(made, Path(draft, path.name))
            Path(draft, path.name).replace(path)
    return made


def _digest(dataset: PublicDataset, raw: Path) -> str:
    digest = hashlib.sha256(_FORMAT)
    for file in sorted(raw.glob(f"{dataset.prefix}*")):
        check_file(file)
        digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _download(dataset: PublicDataset) -> Path:
    """Download raw files, unread, and move them into place in one step."""
    home = cache_folder() / f"{dataset.name}-downloaded" / dataset.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        place = TemporaryDirectory(dir=home, prefix="draft-")
    except OSError as error:
        raise DatasetNotFoundError(
            f"{dataset.name} is not on this machine, and the cache, into which it would be downloaded, cannot be "
            f"written to ({error}); name another folder by {CACHE_VARIABLE}, or put its files where --root says"
        ) from error
    with place as draft:
        try:
            with _impatient_downloads():
                if dataset.source.endswith(".zip"):
                    fs.cp(dataset.source, draft, extract=True)
                    draft_raw = Path(draft, dataset.name)
                else:
                    draft_raw = Path(draft, "raw")
                    for file in dataset.files:
                        fs.cp(f"{dataset.source}/{file}", str(draft_raw))
        except _DOWNLOAD_ERRORS as error:
            raise DatasetNotFoundError(_how_to_get(dataset, error)) from error
        if not all((draft_raw / file).is_file() for file in dataset.files):
            raise DataFormatError(f"{dataset.source} has not all of {', '.join(dataset.files)}")
        with suppress(OSError):  # another process was first, and has the same
            draft_raw.rename(home / "raw")
    return home / "raw"


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
