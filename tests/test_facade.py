"""What ``import distgnn`` gives, and what it does not load; the error tree; who imports whom."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from importlinter.cli import lint_imports

import distgnn
from distgnn import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = {
    "BackendError",
    "BackendOptionError",
    "BackendUnavailableError",
    "BrokenBackendError",
    "CallOrderError",
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointNotFoundError",
    "CheckpointWriteError",
    "ConfigError",
    "DataError",
    "DataFormatError",
    "DatasetNotFoundError",
    "DistGNNError",
    "EmbeddingSizeError",
    "GraphInputError",
    "IdRangeError",
    "IdsError",
    "NameConflictError",
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "PeerLostError",
    "RowsError",
    "RunWriteError",
    "SecretError",
    "SpecError",
    "StoreClosedError",
    "StoreError",
    "TrainingStoppedError",
    "UnknownBackendError",
    "UnknownDatasetError",
}
NAMES = ERRORS | {
    "Backend",
    "BackendInfo",
    "Communicator",
    "EmbeddingSpec",
    "EmbeddingStore",
    "GraphSpec",
    "GraphStore",
    "InEdges",
    "LocalCommunicator",
    "PartitionBook",
    "ProcessGroupCommunicator",
    "RuleState",
    "StateSpec",
    "SupportsCache",
    "SupportsCheckpoint",
    "SupportsGraphParts",
    "SupportsPlacement",
    "SupportsPrefetch",
    "SupportsRanks",
    "SupportsResize",
    "SupportsTraffic",
    "TensorSpec",
    "TensorStore",
    "UpdateRule",
    "__version__",
    "get_backend",
    "hookimpl",
    "initial_rows",
    "list_backends",
    "use",
}


def loaded_after(code: str) -> set[str]:
    """The top-level packages that a fresh process has loaded after ``code``."""
    code += "\nimport sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


def test_importing_distgnn_loads_nothing_heavy() -> None:
    loaded = loaded_after("import distgnn; distgnn.__version__; distgnn.DistGNNError")
    assert not loaded & {"torch", "torch_geometric", "numpy", "pluggy", "dgl", "pytest", "matplotlib", "typer"}


def test_importing_loaders_loads_no_plotting_library() -> None:
    assert not loaded_after("import distgnn.graph, distgnn.nn, distgnn.optim") & {
        "matplotlib",
        "aiohttp",
        "dgl",
        "yaml",
    }


def test_listing_backends_loads_no_engine() -> None:
    loaded = loaded_after("import distgnn; assert distgnn.list_backends()")
    assert not loaded & {"torch_geometric", "dgl", "pytest"}


def test_a_backend_is_used_without_pyg() -> None:
    loaded = loaded_after("import distgnn; distgnn.get_backend().open_tensor(distgnn.TensorSpec('t', (2,)))")
    assert "torch" in loaded
    assert not loaded & {"torch_geometric", "dgl", "pytest"}


def test_the_public_names_are_these_and_can_be_had() -> None:
    assert distgnn.__all__ == sorted(NAMES)
    assert dir(distgnn) == sorted(NAMES)
    for name in NAMES:
        assert getattr(distgnn, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'distgnn' has no attribute 'lsit_backends'"):
        distgnn.lsit_backends  # noqa: B018


def drawn_errors() -> Iterator[tuple[str, str, str]]:
    """Each error of the drawing in the docstring of distgnn.errors: its name, its parent, its builtin or ''."""
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+Error)(?: +\((\w+)\))?", line):
            del parents[len(found[1]) // 4 :]
            yield found[2], parents[-1] if parents else "Exception", found[3] or ""
            parents.append(found[2])


def test_the_drawing_shows_every_error() -> None:
    assert {name for name, _, _ in drawn_errors()} == ERRORS
    assert {name for name, value in vars(errors).items() if isinstance(value, type)} == ERRORS


@pytest.mark.parametrize(("name", "parent", "builtin"), list(drawn_errors()))
def test_an_error_is_what_the_drawing_says(name: str, parent: str, builtin: str) -> None:
    error = getattr(distgnn, name)
    assert error.__bases__[0].__name__ == parent
    assert [base.__name__ for base in error.__bases__[1:]] == ([builtin] if builtin else [])
    assert not builtin or issubclass(error, getattr(builtins, builtin))
    assert error.__doc__


def test_modules_import_only_what_they_may(capsys: pytest.CaptureFixture[str]) -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    status = lint_imports(config_filename=str(pyproject), no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out
