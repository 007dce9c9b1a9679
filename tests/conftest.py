from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.jobs import start_job

if TYPE_CHECKING:
    import pytest

__all__ = ["start_job"]

# Tests run beside each other on few cores: threads that wait for each other would cost more than they bring.
torch.set_num_threads(1)

# What takes longest goes first, that the workers end together.
LONGEST = (
    "tests/backends/test_on_ranks.py",
    "tests/backends/test_sockets_train.py",
    "tests/cli/test_commands.py::test_the_founding_command_lines",
    "tests/faults/test_resume.py",
    "tests/testing/test_conformance.py",
    "tests/faults/test_lost_while_starting.py",
    "tests/docs/test_docs.py::test_the_test_files",
    "tests/faults/test_dgl_failures.py",
    "tests/plan/test_plan.py",
    "tests/backends/dgl/test_dgl_exchange.py",
    "tests/docs/test_cluster.py",
    "tests/backends/test_two_hosts.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; all else stays in its order."""

    def place(item: pytest.Item) -> int:
        return next((place for place, test in enumerate(LONGEST) if item.nodeid.startswith(test)), len(LONGEST))

    items.sort(key=place)
