"""The site that ``make docs`` builds of the documentation."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site is built with `pip install 'distgnn[docs]'`")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    assert not built.stdout + built.stderr
    return folder


@pytest.mark.parametrize("name", ["", "nn", "optim", "graph", "data", "testing"])
def test_every_public_name_has_its_docstring_on_the_site(site: Path, name: str) -> None:
    module = f"distgnn.{name}".rstrip(".")
    page = (site / "api" / f"{name or 'distgnn'}.html").read_text()
    names = {each for each in importlib.import_module(module).__all__ if not each.startswith("__")}
    assert names <= set(re.findall(rf'id="{re.escape(module)}\.(\w+)"', page))


def test_docstrings_leave_no_foreign_markup(site: Path) -> None:
    for page in (site / "api").glob("*.html"):
        assert not re.search(r":\w+:(`|<code>)|\.\. math", page.read_text()), page


def test_formulas_are_drawn_by_the_browser_itself(site: Path) -> None:
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in (site / "api/nn.html").read_text()


def test_pages_ask_no_other_server_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.findall(r'<(?:link|script|img|iframe)[^>]* (?:href|src)="?(?:https?:)?//[^>]*>', page.read_text())


def test_every_page_can_be_reached_from_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")} - {"404.html", "index.html"}
    assert {page for page in pages if f'href="{page}"' not in menu} == set()


def test_models_come_first_with_what_they_inherit(site: Path) -> None:
    page = (site / "api/nn.html").read_text()
    first = list(dict.fromkeys(re.findall(r'id="distgnn\.nn\.(\w+)"', page)))
    first = [name for name in first if name != "MODELS"][:4]  # data stands before classes
    assert first == ["DistributedGIN", "DistributedGINE", "DistributedSAGE", "DistributedGNN"]
    for member in ("forward", "inference", "close", "set_num_embeddings"):
        assert f'id="distgnn.nn.DistributedGINE.{member}"' in page


def test_what_is_copied_from_a_console_has_no_prompt(site: Path) -> None:
    page = (site / "install.html").read_text()
    assert '<span class="gp">$ </span>pip' in page  # the prompt has an element of its own
    assert "[data-md-copying] .gp" in (site / "site.css").read_text()
    assert any("data-md-copying" in script.read_text() for script in site.rglob("bundle.*.js"))
