from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def needs_dgl() -> None:
    if find_spec("dgl") is None:
        pytest.skip("dgl is not installed here")
