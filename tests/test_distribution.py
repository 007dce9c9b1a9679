"""What is in the wheel, without an environment for it; ``nox -s wheel`` installs it into one."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed here")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("distgnn-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_has_the_package_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "distgnn").rglob("*") if path.is_file()}
    named = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert named == {path for path in package if "__pycache__" not in path}
    assert "distgnn/py.typed" in named


def test_the_wheel_offers_the_command_and_the_fixture(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    lines = wheel.read(name).decode().split("\n")
    assert "distgnn = distgnn.cli.app:main" in lines[lines.index("[console_scripts]") :]
    assert "distgnn = distgnn.pytest_plugin" in lines[lines.index("[pytest11]") :]


def test_no_dependency_is_of_a_folder_or_a_host(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    needed = [line for line in wheel.read(name).decode().split("\n") if line.startswith("Requires-Dist:")]
    assert needed
    assert not [line for line in needed if "@" in line]


def test_every_package_that_is_imported_is_declared(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    needed = re.findall(r"^Requires-Dist: ([\w.-]+)", wheel.read(name).decode(), flags=re.MULTILINE)
    declared = {re.sub(r"[-_.]+", "-", each).lower() for each in needed}
    of_package = packages_distributions()
    imported = set()
    for path in (ROOT / "distgnn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            imported |= {each.partition(".")[0] for each in names}
    foreign = imported - set(sys.stdlib_module_names) - {"distgnn"}
    assert {"torch", "yaml", "aiohttp"} <= foreign
    for package in foreign:
        homes = {re.sub(r"[-_.]+", "-", each).lower() for each in of_package.get(package, [package])}
        assert homes & declared, package
