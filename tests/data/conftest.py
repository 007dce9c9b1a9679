"""What the tests of the data sets share: a cache of their own, no internet, and one folder of real data."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # PyG calls it when it is imported
    import torch_geometric  # noqa: F401

SHARED_DATA = Path(os.environ.get("DISTGNN_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture
def shared_data() -> Path:
    """The folder with real data sets: ``$DISTGNN_DATA``, or ``shared/data`` beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no folder with data sets at {SHARED_DATA}; name one in DISTGNN_DATA")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a proxy that refuses every connection at once."""
    monkeypatch.delenv("DISTGNN_DATA", raising=False)
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
        monkeypatch.setenv(variable.upper(), "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache"
