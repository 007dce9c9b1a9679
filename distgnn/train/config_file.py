"""Options of a run in a YAML file."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

import yaml

from distgnn.errors import ConfigError
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

_LISTS = {"option"}  # of what may be given several times; other lists are numbers joined by commas


def read_config(path: Path) -> dict[str, Any]:
    """Read the options of a run, to be given to :class:`~distgnn.train.config.TrainConfig`.

    A folder's own ``config.yaml`` is such a file, and so is its ``config.json``.

    Args:
        path: A file of ``name: value`` lines, in YAML or JSON; names are those of the fields of
            :class:`~distgnn.train.config.TrainConfig`, also with ``-`` for ``_``. A value that is missing or null
            leaves the option to its default.

    Raises:
        ConfigError: The file cannot be read, or names an option that there is not.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the config file {path} cannot be read: {reason}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"the config file {path} must hold lines of 'name: value', not a {type(found).__name__}")
    keys = [str(key.value).replace("-", "_") for key, _ in node.value]  # safe_load keeps the last of equal ones
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(f"the config file {path} gives {', '.join(twice)} twice")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    options: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
            raise ConfigError(f"the config file {path} names an option that there is not: {key!r}; {hint}")
        if isinstance(value, dict):
            raise ConfigError(f"the config file {path}: {key} must be one value, not {value}")
        if isinstance(value, list) and name not in _LISTS:
            value = ",".join(map(str, value))  # noqa: PLW2901
        if value is not None:
            options[name] = value
    return options


def write_config(config: TrainConfig) -> str:
    """Return the options as the text of a config file; those that are at their default are comments."""
    lines = ["# The options of this run: distgnn train --config config.yaml --name ANOTHER runs it again.\n"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        line = yaml.safe_dump({field.name: list(value) if isinstance(value, tuple) else value}, width=10**6)
        lines.append(f"# {line}" if value == field.default else line)
    return "".join(lines)
