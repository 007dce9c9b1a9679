from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_that_are_tested_are_the_oldest_that_are_admitted() -> None:
    text = (ROOT / "constraints-floors.txt").read_text()
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text()
    admitted = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', project.partition("[project.scripts]")[0]))
    core = {Requirement(line).name for line in requires("distgnn") or () if "extra ==" not in line}
    assert core <= set(admitted) & set(tested)
    for name in set(tested) & set(admitted):
        ours, theirs = (Version(text) for text in (tested[name], admitted[name]))
        # The first release of a series may have been taken back.
        assert (ours.major, ours.minor) == (theirs.major, theirs.minor), name


def test_the_page_on_installing_names_them() -> None:
    rows = re.findall(
        r"^\| ([\w, -]+) \| ([\d., ]+) \| [\d., ]+ \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE
    )
    named = {
        name: oldest for names, olds in rows for name, oldest in zip(names.split(", "), olds.split(", "), strict=True)
    }
    project = (ROOT / "pyproject.toml").read_text()
    assert {"Python", "torch", "torch-geometric", "numpy", "scipy", "dgl"} <= set(named)
    assert f'requires-python = ">={named.pop("Python")}"' in project
    for name, oldest in named.items():
        assert re.search(rf'"{name}[>=]={oldest}[";]', project), name
