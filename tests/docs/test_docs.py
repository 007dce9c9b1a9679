"""The documentation is true: its code runs and prints what it says, its links lead somewhere, its reference is whole.

Conventions of the pages: the Python blocks of a page share a namespace and run in order, in an empty folder. A block
whose first line is a comment with a file name is that file, or its continuation; pytest runs those named ``test_*.py``.
A ``text`` block is what the block before it prints, where ``...`` stands for anything. An HTML comment before a block
says that it is not run, and why, or what it needs, or that its commands are run.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import inspect
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
import typer
from markdown_it import MarkdownIt
from typer.testing import CliRunner

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")  # PyG calls it when it is imported
    import torch_geometric  # noqa: F401

import distgnn
from distgnn import errors, testing
from distgnn.cli.app import app, main
from distgnn.storage import registry
from distgnn.train.config import TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = ("distgnn", "distgnn.nn", "distgnn.optim", "distgnn.graph", "distgnn.data", "distgnn.testing")
NEEDS_DGL = "<!-- needs dgl -->"
RUNS = "<!-- runs in the tests, with 2 epochs -->"
JIT = "-Wignore:`torch.jit.script` is deprecated"  # PyG uses it, and torch says so by the one category or the other
WARNINGS = ("-Werror", f"{JIT}:DeprecationWarning", f"{JIT}:FutureWarning")
COMMANDS: Any = typer.main.get_command(app)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line where that begins, and an HTML comment right before it."""

    language: str
    text: str
    line: int
    comment: str

    @property
    def file(self) -> str | None:
        """The file that the block is, or is a part of."""
        named = re.match(r"# ([\w./-]+\.\w+)$", self.text.partition("\n")[0])
        return named[1] if named else None

    @property
    def commands(self) -> list[list[str]]:
        """The ``$ distgnn ...`` commands of a console block, as lists of words."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = (shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ "))
        return [each[each.index("distgnn") + 1 :] for each in words if "distgnn" in each]


def tokens_of(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks_of(page: Path) -> list[Block]:
    found, comment = [], ""
    for token in tokens_of(page):
        if token.type == "fence":
            assert token.map
            found.append(Block(token.info, token.content, token.map[0] + 2, comment))
        comment = token.content.strip() if token.type == "html_block" else ""
    return found


def write_files(page: Path, folder: Path) -> set[str]:
    """Write the files of a page and give their names."""
    texts: dict[str, str] = {}
    for block in blocks_of(page):
        if block.file:
            texts[block.file] = texts.get(block.file, "") + block.text + "\n\n"
    for name, text in texts.items():
        (folder / name).write_text(text)
    return set(texts)


def with_files(pattern: str) -> list[Path]:
    return [page for page in PAGES if any(re.match(pattern, block.file or "") for block in blocks_of(page))]


def name_of(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; backends, environment and random numbers are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_opened", [])
    monkeypatch.setattr(registry, "_current", [])
    with mock.patch.dict(os.environ), torch.random.fork_rng():
        for variable in [name for name in os.environ if name.startswith("DISTGNN_")]:
            del os.environ[variable]
        torch.manual_seed(0)
        yield tmp_path
        for opened in registry._opened:
            opened.backend.close()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(page):
        if block.comment.startswith("<!-- not run") or (block.comment == NEEDS_DGL and find_spec("dgl") is None):
            continue
        if block.language == "python" and not block.file:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), namespace)
            printed = out.getvalue()
        elif block.language == "text":
            pattern = re.sub(r"(\\ )?\\\.\\\.\\\.", ".*", re.escape(" ".join(block.text.split())))
            assert re.fullmatch(pattern, " ".join(printed.split())), f"{page}, line {block.line}: printed\n{printed}"
        elif block.comment == RUNS:
            for words in block.commands:
                result = CliRunner().invoke(app, [*words, "--epochs", "2"], catch_exceptions=False)
                assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", with_files(r"test_.*\.py"), ids=name_of)
def test_the_test_files_of_a_page_pass(page: Path, tmp_path: Path) -> None:
    install(page, tmp_path)
    output = run_in(tmp_path, "-m", "pytest", "-q", "-rs", "--tb=short", "-pno:cacheprovider", *WARNINGS)
    # What may be skipped is power that a backend need not have.
    reasons = r"the (?:store|backend) has no [\w ]+(?:\(\))?|a rank that is alone agrees with itself"
    optional = re.findall(rf"^SKIPPED \[(\d+)\] .*: (?:{reasons})$", output, re.MULTILINE)
    skipped = sum(map(int, optional))
    assert re.search(rf"^\d+ passed{f', {skipped} skipped' if skipped else ''} in ", output, re.MULTILINE), output


@pytest.mark.parametrize("page", with_files("pyproject.toml"), ids=name_of)
def test_the_backend_of_a_page_is_listed_without_being_imported(page: Path, tmp_path: Path) -> None:
    ((name, module),) = install(page, tmp_path).items()
    listing = "import distgnn, sys; print([b for b in distgnn.list_backends() if b.available], *sys.modules)"
    listed = run_in(tmp_path, "-c", listing)
    assert f"name={name!r}" in listed
    assert module not in listed


def install(page: Path, folder: Path) -> dict[str, str]:
    """Write the files of a page, and install them if they are a distribution; give its backends and their modules."""
    if "pyproject.toml" not in write_files(page, folder):
        return {}
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    backends: dict[str, str] = project["entry-points"]["distgnn"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text("[distgnn]\n" + "".join(f"{key} = {backends[key]}\n" for key in backends))
    return backends


def run_in(folder: Path, *arguments: str) -> str:
    """Run Python in a process of its own that finds what is in the folder; give its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DISTGNN_", "PYTEST_"))}
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_can_be_parsed(page: Path) -> None:
    for block in blocks_of(page):
        for words in block.commands if block.language == "console" else ():
            check_command(words)


def check_command(words: list[str]) -> None:
    flags = {option for parameter in COMMANDS.params for option in parameter.opts}
    while words and words[0] in flags:
        words = words[1:]
    if words:
        assert words[0] in COMMANDS.commands, f"there is no command {words[0]}"
        COMMANDS.commands[words[0]].make_context(words[0], [word for word in words[1:] if word != "--help"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for token in tokens_of(page):
        for child in token.children or ():
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if target and "://" not in target:
                path, _, anchor = target.partition("#")
                linked = (page.parent / path).resolve() if path else page
                assert linked.is_file(), f"{page}: {target}"
                assert not anchor or anchor in anchors_of(linked), f"{page}: {target}"


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    pairs = itertools.pairwise(tokens_of(page))
    headings = [text.content for opening, text in pairs if opening.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_links_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES[1:]:
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"({name})" in index, name


def test_the_kit_has_the_tests_that_the_page_on_backends_names() -> None:
    kit = {name for suite in testing.__all__ for name in dir(getattr(testing, suite))}
    named = set(re.findall(r"^\| `(test_\w+)`", (ROOT / "docs/how-to/write-a-backend.md").read_text(), re.MULTILINE))
    assert named
    assert named <= kit


class Reference:
    """The reference page: its code spans by heading of the second level, its tables by the heading above."""

    def __init__(self) -> None:
        self.spans: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[str]]] = {}
        section = heading = ""
        row: list[str] | None = None
        tokens = iter(tokens_of(ROOT / "docs" / "reference.md"))
        for token in tokens:
            if token.type == "heading_open":
                heading = next(tokens).content
                section = heading if token.tag == "h2" else section
            elif token.type in {"tr_open", "tr_close"}:
                row = [] if token.type == "tr_open" else None
                if row is not None:
                    self.tables.setdefault(heading, []).append(row)
            elif token.type == "inline":
                spans = [child.content for child in token.children or () if child.type == "code_inline"]
                self.spans.setdefault(section, []).extend(spans)
                if row is not None:
                    row.append(token.content)

    def table(self, heading: str) -> dict[str, list[str]]:
        """The rows of a table, by what stands in the first column without backticks."""
        return {row[0].strip("`"): row[1:] for row in self.tables[heading][1:]}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_every_public_name(reference: Reference, module: str) -> None:
    names = {span.partition("(")[0] for span in reference.spans[module]}
    assert set(importlib.import_module(module).__all__) <= names


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_the_signatures_of_the_code(reference: Reference, module: str) -> None:
    found = importlib.import_module(module)
    for span in reference.spans[module]:
        named = re.fullmatch(r"(\w+)(?:\.(\w+))?(?:\((.*)\)(?: -> .*)?)?", span)
        if named and named[1] in found.__all__:
            value = getattr(found, named[1])
            value = getattr(value, named[2]) if named[2] else value
            if named[3] is not None:
                written = eval(f"lambda {named[3]}: None", {"torch": torch})
                assert bare(written) == bare(value), span


def bare(function: Any) -> list[inspect.Parameter]:
    """Its parameters without annotations and without self."""
    parameters = inspect.signature(function).parameters.values()
    return [each.replace(annotation=inspect.Parameter.empty) for each in parameters if each.name != "self"]


@pytest.mark.parametrize("name", ["Backend", "EmbeddingStore", "TensorStore", "GraphStore", "UpdateRule"])
def test_the_reference_has_every_member_of_a_protocol(reference: Reference, name: str) -> None:
    members = {f"{name}.{member}" for member in vars(getattr(distgnn, name)) if not member.startswith("_")}
    assert members <= {span.partition("(")[0] for span in reference.spans["distgnn"]}


def test_the_reference_has_every_error_and_what_else_it_is(reference: Reference) -> None:
    rows = reference.table("Errors")
    known = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert set(known) <= set(rows)
    for name, kind in known.items():
        also = rows[name][0].strip("`")
        assert not also or issubclass(kind, getattr(builtins, also)), name


@pytest.mark.parametrize("command", COMMANDS.commands)
def test_the_reference_has_every_option(reference: Reference, command: str) -> None:
    options = {option for parameter in COMMANDS.commands[command].params for option in parameter.opts}
    assert set(reference.table(f"distgnn {command}")) == options


def test_the_reference_has_the_options_of_the_command_itself(reference: Reference) -> None:
    spans = " ".join(reference.spans["The commands"]).split()
    assert {option for parameter in COMMANDS.params for option in parameter.opts} <= set(spans)


def test_the_reference_has_the_defaults_of_a_run(reference: Reference) -> None:
    rows = {name.strip("-").replace("-", "_"): row for name, row in reference.table("distgnn train").items()}
    defaults = TrainConfig().as_dict()
    assert {name for name in rows if len(name) > 1} == {*defaults, "config", "json"}
    for name, default in defaults.items():
        assert rows[name][0] == ("" if default is None or default is False else f"`{default}`"), name


def test_the_reference_has_every_environment_variable(reference: Reference) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "distgnn").rglob("*.py"))
    assert set(reference.table("Environment variables")) == set(re.findall(r"DISTGNN_[A-Z_]*[A-Z]", sources))


def test_the_reference_has_the_files_of_a_run_and_their_fields(reference: Reference, folder: Path) -> None:
    words = shlex.split("train --dataset CustomLargeGraph --num-nodes 60 --num-edges 200 --epochs 1 --name one")
    words += shlex.split("--use-dist-embedding --embedding-dim 4 --checkpoint-every 1 --report --json")
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    rows = reference.table("Files of a run")
    assert set(rows) == {path.name for path in Path("runs/one").iterdir()}
    for name in ("metrics.jsonl", "result.json"):
        written, _ = json.JSONDecoder().raw_decode(Path("runs/one", name).read_text())
        assert re.findall(r"`(\w+)`", rows[name][0]) == list(written)


@pytest.mark.parametrize(("words", "code"), [("--version", 0), ("train --dataset MUTTAG", 2), ("train --nope", 2)])
def test_the_exit_codes_are_those_of_the_reference(
    words: str, code: int, reference: Reference, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["distgnn", *words.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert str(code) in reference.table("The commands")
