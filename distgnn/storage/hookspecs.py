"""The hook by which a backend is found.

A plugin is a module with::

    import distgnn


    @distgnn.hookimpl
    def distgnn_backend():
        return MyBackend

and an entry point that names it; the entry point's name is the backend's name::

    [project.entry-points.distgnn]
    mine = "distgnn_mine"
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

from distgnn.storage.protocols import Backend

PROJECT = "distgnn"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks the hook of a plugin, a function ``distgnn_backend()`` as :func:`distgnn_backend` describes."""

BackendFactory = Callable[..., Backend]


@hookspec
def distgnn_backend() -> BackendFactory:  # type: ignore[empty-body]  # a hook's specification has no body
    """Return what makes the backend: its class, or a function.

    Called once a process, when the backend is first chosen. Importing the plugin's module may import its engine;
    nothing is opened yet.

    Returns:
        A callable that takes the backend's options as keyword arguments (they are shown to users from its signature)
        and returns a :class:`~distgnn.Backend` whose ``name`` is the entry point's name. Where its engine cannot be
        reached it raises :class:`~distgnn.BackendUnavailableError`, whose text names the address and what to start.
    """
