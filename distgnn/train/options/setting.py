"""Fields of options: a default, a line of help, and what a value may be."""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def setting(
    default: Any,
    help: str,  # noqa: A002  # as in typer and argparse
    *,
    least: float | None = None,
    most: float | None = None,
    choices: Sequence[str] | None = None,
    short: str | None = None,
    metavar: str | None = None,
    envvar: str | None = None,
) -> Any:
    """Return a field of a dataclass of options.

    Args:
        default: Its default; None where it follows from other options or the data.
        help: The line of ``--help``.
        least: The smallest value; None is no bound.
        most: The largest value; None is no bound.
        choices: The values that there are.
        short: A second name on the command line, such as ``-o``.
        metavar: A value as ``--help`` shows it; None is its type.
        envvar: An environment variable that the command line reads where the option is not given.
    """
    described = {"help": help, "least": least, "most": most, "choices": choices}
    return field(default=default, metadata={**described, "short": short, "metavar": metavar, "envvar": envvar})


def check_settings(options: Any) -> None:
    """Refuse values that their fields do not admit; None is always admitted where it is the default.

    Raises:
        ConfigError: Names the field, the value, and what may be.
    """
    for one in fields(options):
        value, described = getattr(options, one.name), one.metadata
        if value is None and one.default is None:
            continue
        least, most = described.get("least"), described.get("most")
        if described.get("choices") is not None:
            check_choice(one.name, value, described["choices"])
        elif most is not None and not least <= value <= most:
            raise ConfigError(f"{one.name} must be finite and at least {least:g}, and not above {most:g}: {value}")
        elif most is None and least is not None and value < least:
            raise ConfigError(f"{one.name} must be at least {least:g}, not {value}")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is not among those that there are.

    Raises:
        ConfigError: Names the option, the value and the choices.
    """
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}")
