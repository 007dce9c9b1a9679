"""Importing DGL beside any torch: each case in a process of its own, most with a small DGL on disk."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

IMPORT = "import sys\nfrom distgnn import graphbolt as importing\n"
LIBRARY = "libgraphbolt_pytorch_9.9.9.so"
WORKING = "class ItemSet: pass"
WITHOUT_LIBRARY = f"from dgl.graphbolt import parts\nraise FileNotFoundError('Cannot find {LIBRARY}')"
WITHOUT_MODULE = "import no_such_datapipes"


def run(*sources: str, path: Path | None = None) -> str:
    """Run a program and return what it prints."""
    source = "".join(map(textwrap.dedent, sources))
    given = {"PYTHONPATH": ":".join(([str(path)] if path else []) + sys.path)}
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, check=False, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_dgl(folder: Path, graphbolt: str | None) -> None:
    package = folder / "dgl"
    package.mkdir()
    (package / "__init__.py").write_text("from dgl import graphbolt as gb" if graphbolt else "gb = None")
    if graphbolt:
        (package / "graphbolt").mkdir()
        (package / "graphbolt" / "__init__.py").write_text(graphbolt)
        (package / "graphbolt" / "parts.py").write_text("")


def test_a_graphbolt_that_can_be_loaded_is_left_alone(tmp_path: Path) -> None:
    write_dgl(tmp_path, WORKING)
    told = run(IMPORT, "dgl = importing.import_dgl(); print(dgl.gb.ItemSet(), hasattr(dgl.gb, 'other'))", path=tmp_path)
    assert told.startswith("<dgl.graphbolt.ItemSet object")
    assert told.endswith("False")


def test_a_dgl_without_graphbolt_is_left_alone(tmp_path: Path) -> None:
    write_dgl(tmp_path, None)
    assert (
        run(IMPORT, "print(importing.import_dgl().gb, 'dgl.graphbolt' in sys.modules)", path=tmp_path) == "None False"
    )


@pytest.mark.parametrize(
    ("graphbolt", "cause"),
    [
        (WITHOUT_LIBRARY, f"FileNotFoundError: Cannot find {LIBRARY}"),
        (WITHOUT_MODULE, "ModuleNotFoundError: No module"),
    ],
)
def test_one_that_cannot_be_loaded_says_why_when_it_is_used(tmp_path: Path, graphbolt: str, cause: str) -> None:
    write_dgl(tmp_path, graphbolt)
    use = """
    gb = importing.import_dgl().gb
    print(isinstance(3, gb.FusedCSCSamplingGraph), hasattr(gb, "__file__"), "dgl.graphbolt.parts" in sys.modules)
    for use in (lambda: gb.ItemSet, gb.FusedCSCSamplingGraph):
        try:
            use()
        except ImportError as error:
            print(error, type(error.__cause__).__name__)
    """
    first, *errors = run(IMPORT, use, path=tmp_path).splitlines()
    assert first == "False True False"
    assert len(errors) == 2
    for error in errors:
        assert f"dgl.graphbolt cannot be loaded beside this torch ({cause}" in error
        assert error.endswith(cause.partition(":")[0])


def test_the_real_dgl_is_imported_without_a_word_and_without_a_file(tmp_path: Path) -> None:
    told = run(
        IMPORT,
        f"""
        import os
        os.environ["HOME"] = {str(tmp_path)!r}
        dgl = importing.import_dgl()
        import dgl.distributed
        print(dgl.__version__)
        """,
    )
    assert told == "2.1.0"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["dgl", "pandas", "packaging"])
def test_what_is_missing_is_named_with_the_command_that_installs_it(missing: str) -> None:
    told = run(
        f"""
        import sys
        sys.modules[{missing!r}] = None
        import distgnn
        from distgnn.storage.registry import list_backends
        assert "dgl.distributed" not in sys.modules
        try:
            distgnn.use("dgl")
        except distgnn.BackendUnavailableError as error:
            print(error)
        print(distgnn.use("memory").backend.name)
        """
    )
    error, other = told.splitlines()
    assert missing in error
    assert 'pip install "distgnn[dgl]"' in error
    assert other == "memory"


def test_listing_backends_imports_no_dgl() -> None:
    assert run("import distgnn, sys; distgnn.list_backends(); print('dgl' in sys.modules)") == "False"
