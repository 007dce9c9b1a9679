"""What pytest does as a rank, in lock-step with the others: run as ``pytest_rank.py TEST ...``."""

from __future__ import annotations

import os
import sys

import pytest

if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = os.environ["RANK"]  # as torchrun says on one host
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]  # what the pytest that started this one says of itself
    # Modules that the process before this one has imported are none whose assertions pytest would explain.
    ignored = "ignore::pytest.PytestAssertRewriteWarning"
    sys.exit(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-W", ignored, *sys.argv[1:]]))
