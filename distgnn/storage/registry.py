"""Backends by name, built in and of installed plugins.

Listing reads package metadata and imports nothing. Choosing a backend imports that one.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any

import pluggy

from distgnn._version import __version__
from distgnn.errors import (
    BackendOptionError,
    BackendUnavailableError,
    BrokenBackendError,
    DistGNNError,
    UnknownBackendError,
)
from distgnn.storage import hookspecs
from distgnn.storage.protocols import Backend

if TYPE_CHECKING:
    from types import TracebackType

    from distgnn.storage.hookspecs import BackendFactory

_DISTGNN = f"distgnn {__version__}"

_manager = pluggy.PluginManager(hookspecs.PROJECT)
_manager.add_hookspecs(hookspecs)


@dataclass(frozen=True)
class _BuiltIn:
    """What is known of a backend of this package without importing it.

    Args:
        module: Where its hook is.
        about: What it is.
        engine: The distribution that it needs and that not everybody has installed.
        wheels: Where that can be installed.
    """

    module: str
    about: str
    engine: str = ""
    wheels: str = ""


_BUILT_IN = {
    "memory": _BuiltIn("distgnn.backends.memory", "rows in this process"),
    "pyg": _BuiltIn("distgnn.backends.pyg", "rows on the ranks of a torch.distributed job, on one host or several"),
    "dgl": _BuiltIn(
        "distgnn.backends.dgl",
        "DGL's DistEmbedding and DistTensor; several ranks share a DGL server a host, on one host or several",
        engine="dgl",
        wheels="Linux, Python up to 3.12",
    ),
}


@dataclass(frozen=True)
class BackendInfo:
    """One line of :func:`list_backends`.

    Args:
        name: What to pass to :func:`use`.
        source: The distribution that brings it, with its version.
        available: Whether it can be chosen, as far as can be told without importing it.
        reason: Why not; empty when it is available.
        about: What it is, in a line.
    """

    name: str
    source: str
    available: bool
    reason: str = ""
    about: str = ""


@dataclass(frozen=True)
class _Candidate:
    """Something that calls itself a backend: where it comes from, and why it can't be chosen if so."""

    name: str
    source: str
    entry_point: EntryPoint
    reason: str = ""
    about: str = ""


@dataclass(frozen=True)
class _Opened:
    name: str
    options: dict[str, Any]
    backend: Backend


_opened: list[_Opened] = []
_current: list[_Opened] = []
_failures: dict[EntryPoint, str] = {}


def use(name: str, **options: Any) -> Use:
    """Open a backend and make it the one that this process uses.

    As a statement it holds until the next ``use``::

        distgnn.use("memory", device="cuda")

    As a context manager it holds for the block, and the backend is closed at its end::

        with distgnn.use("memory") as backend:
            ...

    Args:
        name: A name of :func:`list_backends`.
        **options: What the backend's factory takes.

    Raises:
        UnknownBackendError: Nobody offers that name.
        BackendUnavailableError: It cannot be imported here; says what to install.
        BrokenBackendError: It does not keep the plugin contract.
        BackendOptionError: It does not take such an option.
    """
    opened = _open(name, options)
    previous = _current.copy()
    _current[:] = [opened]
    return Use(opened.backend, previous)


class Use:
    """The context manager of :func:`use`."""

    def __init__(self, backend: Backend, previous: list[_Opened]) -> None:
        self.backend = backend
        self._previous = previous

    def __enter__(self) -> Backend:
        return self.backend

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current[:] = self._previous
        _opened[:] = [opened for opened in _opened if opened.backend is not self.backend]
        self.backend.close()


def get_backend(name: str | None = None, **options: Any) -> Backend:
    """Return an open backend, opening it at the first call.

    Args:
        name: Which one. Without it, the one of :func:`use`; before any ``use``, the one that the environment variable
            ``DISTGNN_BACKEND`` names, or ``memory``.
        **options: With options, the backend that was opened with just these; without, the one of that name that is in
            use or was opened last.

    Raises:
        UnknownBackendError: Nobody offers that name.
        BackendUnavailableError: It cannot be imported here; says what to install.
        BrokenBackendError: It does not keep the plugin contract.
        BackendOptionError: It does not take such an option, or options were given without a name.
    """
    if name is None:
        if options:
            raise BackendOptionError(f"options {sorted(options)} were given without the name of a backend")
        if not _current:
            _current.append(_open(os.environ.get("DISTGNN_BACKEND") or "memory", {}))
        return _current[0].backend
    for opened in (*_current, *reversed(_opened)):
        if opened.name == name and options in ({}, opened.options):
            return opened.backend
    return _open(name, options).backend


def list_backends() -> list[BackendInfo]:
    """List every backend that is known here, the built-in ones first, without importing any."""
    return [
        BackendInfo(candidate.name, candidate.source, not candidate.reason, candidate.reason, candidate.about)
        for candidate in _candidates()
    ]


def _candidates() -> list[_Candidate]:
    found = [] if _plugins_are_off() else sorted(entry_points(group=hookspecs.PROJECT))
    sources: dict[str, list[str]] = {}
    for entry_point in found:
        sources.setdefault(entry_point.name, []).append(_source(entry_point))
    candidates = [_built_in(name, known) for name, known in _BUILT_IN.items()]
    for entry_point in found:
        reason = _failures.get(entry_point, "")
        if entry_point.name in _BUILT_IN:
            reason = f"the name {entry_point.name!r} is built in and cannot be taken over; rename the entry point"
        elif len(sources[entry_point.name]) > 1:
            reason = f"several distributions offer it: {', '.join(sources[entry_point.name])}; uninstall all but one"
        elif not reason and not _top_level_exists(entry_point):
            reason = f"its module {entry_point.module!r} is not there; reinstall {_source(entry_point)}"
        candidates.append(
            _Candidate(entry_point.name, _source(entry_point), entry_point, reason, _summary(entry_point))
        )
    return candidates


def _built_in(name: str, known: _BuiltIn) -> _Candidate:
    entry_point = EntryPoint(name, known.module, hookspecs.PROJECT)
    reason, about = _failures.get(entry_point, ""), known.about
    if known.engine:
        try:
            about = f"{about} ({known.engine} {version(known.engine)})"
        except PackageNotFoundError:
            install = f'pip install "distgnn[{name}]" ({known.wheels})'
            reason = reason or f"it needs {known.engine}, which is not installed: {install}"
    return _Candidate(name, _DISTGNN, entry_point, reason, about)


def _plugins_are_off() -> bool:
    return os.environ.get("DISTGNN_DISABLE_PLUGINS") == "1"


def _source(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "an unknown distribution"


def _summary(entry_point: EntryPoint) -> str:
    metadata = entry_point.dist.metadata if entry_point.dist else None
    return metadata["Summary"] if metadata is not None and "Summary" in metadata else ""


def _top_level_exists(entry_point: EntryPoint) -> bool:
    try:
        return importlib.util.find_spec(entry_point.module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _open(name: str, options: dict[str, Any]) -> _Opened:
    candidate = _choose(name)
    factory = _factory(candidate)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(factory).parameters) or "none"
        raise BackendOptionError(f"backend {name!r} was opened with {options}: {error}; its options: {known}") from None
    try:
        backend = factory(**options)
    except OSError as error:
        if isinstance(error, DistGNNError):
            raise
        raise BackendUnavailableError(
            f"backend {name!r} ({candidate.source}) cannot be opened with {options}: {type(error).__name__}: {error}; "
            "its engine must run, and be reached from here"
        ) from error
    if not isinstance(backend, Backend):
        members = ("name", "open_embedding", "open_tensor", "open_graph", "close")
        missing = [member for member in members if not hasattr(backend, member)]
        raise BrokenBackendError(
            f"backend {name!r} ({candidate.source}) made a {type(backend).__name__}, which is no distgnn.Backend: "
            f"it lacks {', '.join(missing)}"
        )
    if backend.name != name:
        raise BrokenBackendError(
            f"backend {name!r} ({candidate.source}) calls itself {backend.name!r}; both names must be the same"
        )
    opened = _Opened(name, options, backend)
    _opened.append(opened)
    return opened


def _choose(name: str) -> _Candidate:
    candidates = _candidates()
    named = [candidate for candidate in candidates if candidate.name == name]
    if not named:
        known = ", ".join(dict.fromkeys(candidate.name for candidate in candidates))
        close = difflib.get_close_matches(name, known.split(", "), n=1)
        meant = f", did you mean {close[0]!r}?" if close else ""
        off = " Plugins are turned off by DISTGNN_DISABLE_PLUGINS=1." if _plugins_are_off() else ""
        raise UnknownBackendError(
            f"no backend is called {name!r}{meant or ';'} known here: {known}.{off} A backend of a third party "
            "is a package of its own: install it, by the name that its author gives"
        )
    candidate = named[0]
    if candidate.reason and candidate.entry_point not in _failures:
        raise BackendUnavailableError(f"backend {name!r} ({candidate.source}) is not available: {candidate.reason}")
    return candidate


def _factory(candidate: _Candidate) -> BackendFactory:
    entry_point = candidate.entry_point
    label = f"backend {candidate.name!r} ({candidate.source})"
    try:
        plugin = entry_point.load()
    except Exception as error:
        _failures[entry_point] = reason = _import_failure(candidate, error)
        raise BackendUnavailableError(f"{label} is not available: {reason}") from error
    if not _manager.is_registered(plugin):
        try:
            _manager.register(plugin, entry_point.value)
            _manager.check_pending()
        except pluggy.PluginValidationError as error:
            _manager.unregister(plugin)
            _failures[entry_point] = reason = f"it implements a hook that distgnn does not have: {error}"
            raise BrokenBackendError(f"{label}: {reason}; the one hook is distgnn_backend()") from error
    others = [other for other in _manager.get_plugins() if other is not plugin]
    try:
        factories = _manager.subset_hook_caller("distgnn_backend", remove_plugins=others)()
    except Exception as error:
        _manager.unregister(plugin)
        _failures[entry_point] = reason = f"its hook distgnn_backend() failed with {type(error).__name__}: {error}"
        raise BackendUnavailableError(f"{label} is not available: {reason}") from error
    if len(factories) != 1 or not callable(factories[0]):
        _manager.unregister(plugin)
        got = f"returned {factories[0]!r}" if factories else "is missing or returned None"
        _failures[entry_point] = reason = f"its hook distgnn_backend() {got}; it must return a callable"
        raise BrokenBackendError(f"{label}: {reason} that makes a distgnn.Backend, marked with @distgnn.hookimpl")
    factory: BackendFactory = factories[0]
    _failures.pop(entry_point, None)
    return factory


def _import_failure(candidate: _Candidate, error: Exception) -> str:
    reason = f"importing {candidate.entry_point.value!r} failed with {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        if candidate.name in _BUILT_IN:
            return f'{reason}; install what it needs: pip install "distgnn[{candidate.name}]"'
        # A package is often called otherwise than its module, and a misspelled one may be somebody else's.
        return f"{reason}; see what {candidate.source} needs, or whether its import is misspelled"
    return reason
