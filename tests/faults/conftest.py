"""Two sizes: ``make test`` runs the quick half of these tests, ``make faults`` all, with more generated inputs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.backends.conftest import spread

__all__ = ["spread"]

settings.register_profile(
    "faults", max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
