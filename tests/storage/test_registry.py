"""Finding and choosing backends: plugins are small distributions on disk, found as pip's are."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoints, PackageNotFoundError, entry_points
from typing import TYPE_CHECKING

import pluggy
import pytest

import distgnn
from distgnn.storage import hookspecs, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Install = Callable[..., None]

INSTALLED = entry_points(group=hookspecs.PROJECT).names  # plugins of this environment, which have no part here
HOOK = """
import distgnn

@distgnn.hookimpl
def distgnn_backend():
    return {returned}
"""
BACKEND = """
class Engine:
    name = {name!r}

    def __init__(self, *, port: int = 0, hosts: tuple = ()):
        self.port, self.closed = port, False

    def open_embedding(self, spec): ...
    def open_tensor(self, spec): ...
    def open_graph(self, spec, edge_index=None): ...
    def close(self): self.closed = True
"""


def working(name: str, returned: str = "Engine") -> str:
    return BACKEND.format(name=name) + HOOK.format(returned=returned)


def new_entry_points(group: str) -> EntryPoints:
    return EntryPoints(found for found in entry_points(group=group) if found.name not in INSTALLED)


@pytest.fixture(autouse=True)
def _fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has chosen nothing yet, and that forgets the plugins afterwards."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    monkeypatch.setattr(registry, "entry_points", new_entry_points)
    monkeypatch.setattr(registry, "_manager", manager)
    for state, empty in (("_opened", []), ("_current", []), ("_failures", {})):
        monkeypatch.setattr(registry, state, empty)
    for variable in ("DISTGNN_BACKEND", "DISTGNN_DISABLE_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    yield
    for module in [module for module in sys.modules if module.startswith("fake_")]:
        del sys.modules[module]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one backend; its module is ``fake_`` with the distribution's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, source: str | None, distribution: str | None = None) -> None:
        distribution = distribution or f"distgnn-{name}"
        module = "fake_" + distribution.replace("-", "_")
        if source is not None:
            (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[distgnn]\n{name} = {module}\n")

    return install


def listed() -> dict[tuple[str, str], distgnn.BackendInfo]:
    return {(info.name, info.source): info for info in distgnn.list_backends()}


def assert_others_work() -> None:
    """What no broken plugin may disturb."""
    assert listed()["memory", f"distgnn {distgnn.__version__}"].available
    assert listed()["good", "distgnn-good 1.0"].available
    assert distgnn.get_backend("good").name == "good"
    with distgnn.use("memory") as backend:
        assert backend.open_tensor(distgnn.TensorSpec("t", (2,))).shape == (2,)


def test_a_working_plugin_is_listed_and_chosen(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "version", lambda _: "2.1.0")  # wherever the tests run
    install("good", working("good"))
    assert [(info.name, info.source, info.available, info.reason) for info in distgnn.list_backends()] == [
        ("memory", f"distgnn {distgnn.__version__}", True, ""),
        ("pyg", f"distgnn {distgnn.__version__}", True, ""),
        ("dgl", f"distgnn {distgnn.__version__}", True, ""),
        ("good", "distgnn-good 1.0", True, ""),
    ]
    with distgnn.use("good", port=7) as backend:
        assert isinstance(backend, distgnn.Backend)
        assert (backend.name, backend.port) == ("good", 7)  # type: ignore[attr-defined]  # the fake's own
    assert_others_work()


def test_listing_imports_no_plugin(install: Install) -> None:
    install("good", working("good"))
    install("slow", "raise SystemExit('imported')")
    assert len(distgnn.list_backends()) == 5
    assert not [module for module in sys.modules if module.startswith("fake_")]


def test_a_built_in_backend_without_its_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(registry, "version", missing)
    (dgl,) = [info for info in distgnn.list_backends() if info.name == "dgl"]
    words = 'it needs dgl, which is not installed: pip install "distgnn[dgl]" (Linux, Python up to 3.12)'
    assert (dgl.available, dgl.reason) == (False, words)
    with pytest.raises(distgnn.BackendUnavailableError, match=re.escape(words)):
        distgnn.use("dgl")


def test_choosing_one_imports_no_other(install: Install) -> None:
    install("good", working("good"))
    install("slow", "raise SystemExit('imported')")
    distgnn.get_backend("good")
    assert [module for module in sys.modules if module.startswith("fake_")] == ["fake_distgnn_good"]


def test_an_unknown_name_is_answered_with_the_known_ones_and_what_is_alike(install: Install) -> None:
    install("good", working("good"))
    words = "no backend is called 'godo', did you mean 'good'? known here: memory, pyg, dgl, good. A backend of a third"
    with pytest.raises(distgnn.UnknownBackendError, match=re.escape(words)) as raised:
        distgnn.use("godo")
    assert "pip install" not in str(raised.value)  # a name that nobody has is for anybody to register
    with pytest.raises(distgnn.UnknownBackendError, match="no backend is called 'redis'; known here: memory"):
        distgnn.use("redis")


BROKEN = {
    "needs a missing package": (
        "import no_such_engine.client",
        distgnn.BackendUnavailableError,
        "ModuleNotFoundError: No module named 'no_such_engine'; see what .* needs, or whether its import is misspelled",
    ),
    "raises at import": (
        "raise OSError('libengine.so: cannot open shared object file')",
        distgnn.BackendUnavailableError,
        "importing 'fake_distgnn_bad' failed with OSError: libengine.so: cannot open shared object file",
    ),
    "is no Python": ("def :", distgnn.BackendUnavailableError, "failed with SyntaxError"),
    "misspells the hook": (
        working("bad").replace("distgnn_backend", "distgnn_bakend"),
        distgnn.BrokenBackendError,
        "it implements a hook that distgnn does not have: .*distgnn_bakend.* the one hook is distgnn_backend()",
    ),
    "has no hook": (BACKEND.format(name="bad"), distgnn.BrokenBackendError, "its hook distgnn_backend() is missing"),
    "does not mark the hook": (
        working("bad").replace("@distgnn.hookimpl", ""),
        distgnn.BrokenBackendError,
        "its hook distgnn_backend() is missing .* marked with @distgnn.hookimpl",
    ),
    "returns nothing from the hook": (
        working("bad", "None"),
        distgnn.BrokenBackendError,
        "its hook distgnn_backend() is missing or returned None",
    ),
    "returns a backend instead of what makes it": (
        working("bad", "Engine()"),
        distgnn.BrokenBackendError,
        "its hook distgnn_backend() returned <.*Engine object .*>; it must return a callable",
    ),
    "makes something else": (
        working("bad", "lambda: [1, 2]"),
        distgnn.BrokenBackendError,
        "made a list, which is no distgnn.Backend: it lacks name, open_embedding, open_tensor, open_graph, close",
    ),
    "makes half a backend": (
        working("bad").replace("open_graph", "open_grahp"),
        distgnn.BrokenBackendError,
        "made a Engine, which is no distgnn.Backend: it lacks open_graph",
    ),
    "calls itself otherwise": (
        working("worse"),
        distgnn.BrokenBackendError,
        "backend 'bad' (distgnn-bad 1.0) calls itself 'worse'; both names must be the same",
    ),
    "is not there": (
        None,
        distgnn.BackendUnavailableError,
        "its module 'fake_distgnn_bad' is not there; reinstall distgnn-bad 1.0",
    ),
}
IN_THE_LIST = {"needs a missing package", "raises at import", "is no Python", "misspells the hook", "has no hook"}


def pattern(words: str) -> str:
    return re.escape(words).replace(r"\.\*", ".*")


@pytest.mark.parametrize(("source", "error", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_told_what_is_wrong_and_disturbs_no_other(
    install: Install, request: pytest.FixtureRequest, source: str | None, error: type[Exception], words: str
) -> None:
    install("good", working("good"))
    install("bad", source)
    for _ in range(2):  # asking again gives the same answer
        with pytest.raises(error, match=pattern(words)) as caught:
            distgnn.use("bad")
        assert "backend 'bad' (distgnn-bad 1.0)" in str(caught.value)
        assert_others_work()
    if request.node.callspec.id in IN_THE_LIST:
        assert not listed()["bad", "distgnn-bad 1.0"].available
        assert listed()["bad", "distgnn-bad 1.0"].reason in str(caught.value)


def test_a_failed_import_is_chained_and_can_be_mended(install: Install, tmp_path: Path) -> None:
    install("bad", "import no_such_engine")
    with pytest.raises(distgnn.BackendUnavailableError) as caught:
        distgnn.get_backend("bad")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    (tmp_path / "no_such_engine.py").touch()
    (tmp_path / "fake_distgnn_bad.py").write_text("import no_such_engine\n" + working("bad"))
    assert distgnn.get_backend("bad").name == "bad"
    assert listed()["bad", "distgnn-bad 1.0"].available
    del sys.modules["no_such_engine"]


def test_a_hook_that_raises_is_a_broken_plugin(install: Install) -> None:
    install("bad", working("bad", "__import__('no_such_engine').Engine"))
    with pytest.raises(distgnn.BackendError, match="no_such_engine"):
        distgnn.use("bad")


def test_an_engine_that_cannot_be_reached_is_a_backend_that_is_not_available(install: Install) -> None:
    refuses = """
def refuse(*, port=0):
    raise ConnectionRefusedError("nobody listens at 10.0.0.1")
"""
    install("away", working("away") + refuses + HOOK.format(returned="refuse"))
    words = "with {'port': 7}: ConnectionRefusedError: nobody listens at 10.0.0.1; its engine must run, and be reached"
    with pytest.raises(distgnn.BackendUnavailableError, match=re.escape(words)) as caught:
        distgnn.use("away", port=7)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_name_that_two_distributions_offer_is_chosen_from_neither(install: Install) -> None:
    install("good", working("good"))
    install("twice", working("twice"), "first-one")
    install("twice", working("twice"), "other-one")
    words = "several distributions offer it: first-one 1.0, other-one 1.0; uninstall all but one"
    with pytest.raises(distgnn.BackendUnavailableError, match=words):
        distgnn.use("twice")
    assert {source: info.reason for (name, source), info in listed().items() if name == "twice"} == {
        "first-one 1.0": words,
        "other-one 1.0": words,
    }
    assert_others_work()


def test_a_built_in_name_cannot_be_taken_over(install: Install) -> None:
    install("good", working("good"))
    install("memory", working("memory"), "usurper")
    words = "the name 'memory' is built in and cannot be taken over; rename the entry point"
    assert listed()["memory", "usurper 1.0"].reason == words
    assert type(distgnn.get_backend("memory")).__module__ == "distgnn.backends.memory"
    assert_others_work()


def test_plugins_can_be_turned_off(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("good", working("good"))
    monkeypatch.setenv("DISTGNN_DISABLE_PLUGINS", "1")
    assert [info.name for info in distgnn.list_backends()] == ["memory", "pyg", "dgl"]
    with pytest.raises(distgnn.UnknownBackendError, match="Plugins are turned off by DISTGNN_DISABLE_PLUGINS=1"):
        distgnn.use("good")


def test_plugins_are_not_said_to_be_off_where_they_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_DISABLE_PLUGINS", "0")
    with pytest.raises(distgnn.UnknownBackendError) as caught:
        distgnn.use("good")
    assert "turned off" not in str(caught.value)


def test_an_unknown_option_is_answered_with_the_known_ones(install: Install) -> None:
    install("good", working("good"))
    with pytest.raises(distgnn.BackendOptionError, match=r"'good'.*'prot': 1.*unexpected.*its options: port, hosts"):
        distgnn.use("good", prot=1)
    with pytest.raises(distgnn.BackendOptionError, match="its options: device"):
        distgnn.get_backend("memory", port=1)
    with pytest.raises(distgnn.BackendOptionError, match=r"options \['port'\] were given without the name of a"):
        distgnn.get_backend(port=1)


def test_use_as_a_statement_holds_until_the_next(install: Install) -> None:
    install("good", working("good"))
    distgnn.use("good")
    assert distgnn.get_backend().name == "good"
    distgnn.use("memory")
    assert distgnn.get_backend().name == "memory"


def test_use_as_a_context_closes_its_backend_and_brings_back_the_one_before(install: Install) -> None:
    install("good", working("good"))
    before = distgnn.get_backend()
    with distgnn.use("good", port=1) as outer:
        with distgnn.use("good", port=2) as inner:
            chosen = [distgnn.get_backend(name) for name in (None, "good", "memory")]
            assert chosen == [inner, inner, before]
        assert (inner.closed, outer.closed) == (True, False)  # type: ignore[attr-defined]  # the fake's own
        assert distgnn.get_backend() is outer
    assert distgnn.get_backend() is before
    assert distgnn.get_backend("good") not in (inner, outer)


def test_an_error_within_the_block_leaves_it_in_order(install: Install) -> None:
    install("good", working("good"))
    context = distgnn.use("good")
    with pytest.raises(KeyError), context:
        raise KeyError
    assert distgnn.get_backend().name == "memory"


def test_get_backend_by_name_and_options_opens_each_once(install: Install) -> None:
    install("good", working("good"))
    first, second = distgnn.get_backend("good", port=1), distgnn.get_backend("good", port=2)
    assert first is not second
    assert distgnn.get_backend("good", port=1) is first
    assert distgnn.get_backend("good") is second
    assert distgnn.get_backend().name == "memory"


def test_the_environment_names_the_first_backend(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("good", working("good"))
    monkeypatch.setenv("DISTGNN_BACKEND", "good")
    assert distgnn.get_backend().name == "good"
    with distgnn.use("memory"):
        assert distgnn.get_backend().name == "memory"
    assert distgnn.get_backend().name == "good"
