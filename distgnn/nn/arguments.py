"""Refusal of constructor arguments that are ambiguous."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from typing import TYPE_CHECKING, ParamSpec

from torch_geometric.nn import MessagePassing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Arguments = ParamSpec("Arguments")

_PYG = ("num_layers", "out_channels", "dropout", "act", "act_first", "act_kwargs", "norm", "norm_kwargs", "jk")
_EARLIER = ("out_channels", "num_layers", "dropout", "train_eps")
_JK = (None, "last", "cat", "max", "lstm")
_OF_EDGES = ("edge_dim", "use_dist_edge_embedding", "edge_embedding_dim", "edge_embedding_name")


def keywords_after_widths(init: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """A constructor that says how more than two arguments by position can be read.

    PyG's GIN has ``num_layers, out_channels`` behind the two widths; here it was ``out_channels, num_layers``. A call
    with ``use_dist_...`` is none of PyG's: it is read as it was, with a warning.
    """

    @functools.wraps(init)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        name, widths, others = type(args[0]).__name__, args[1:3], args[3:]
        if others:
            given = ", ".join(map(repr, args[1:]))
            text = (
                f"{name} takes in_channels and hidden_channels by position and all else by keyword, since ({given}) "
                f"can be read in two ways: as torch_geometric.nn.GIN does, write {_call(name, widths, others, _PYG)}; "
                f"as earlier versions of distgnn did, write {_call(name, widths, others, _EARLIER)}"
            )
            earlier = dict(zip(_EARLIER, others, strict=False))
            is_ours = any(key.startswith("use_dist_") for key in kwargs) and len(others) <= len(_EARLIER)
            if not is_ours or earlier.keys() & kwargs.keys():
                raise TypeError(text)
            warnings.warn(f"{text}; it is read as earlier versions did, which will end", FutureWarning, stacklevel=2)
            kwargs.update(earlier)
        init(*args[:3], **kwargs)  # type: ignore[arg-type]  # self and the widths

    return checked


def _call(name: str, widths: tuple[object, ...], others: tuple[object, ...], names: tuple[str, ...]) -> str:
    keywords = [f"{key}={value!r}" for key, value in zip(names, others, strict=False)]
    keywords += ["..."] * (len(others) > len(names))
    return f"{name}({', '.join([*map(repr, widths), *keywords])})"


def check_options(
    name: str,
    in_channels: int,
    num_layers: int,
    *,
    jk: str | None,
    by_layer: bool,
    use_dist_embedding: bool,
    halo_staleness: int,
) -> None:
    """Refuse values that a model cannot have, alone or together.

    Args:
        name: Of the class.
        in_channels: As in the constructor, and so the others.
        num_layers: Likewise.
        jk: Likewise.
        by_layer: Whether the readout is the paper's.
        use_dist_embedding: Likewise.
        halo_staleness: Likewise.

    Raises:
        ValueError: There is one.
    """
    if num_layers < 1:
        raise ValueError(f"{name} needs at least 1 layer, not {num_layers}")
    if halo_staleness < 0:
        raise ValueError(f"halo_staleness is a number of forwards, at least 0, not {halo_staleness}")
    if jk not in _JK:
        raise ValueError(f"jk is one of {', '.join(map(repr, _JK))}, not {jk!r}")
    if by_layer and jk is not None:
        raise ValueError(f"readout='layer_sum' takes the place of jk; leave out jk={jk!r}")
    if in_channels == -1 and (use_dist_embedding or by_layer):
        raise ValueError(
            "in_channels=-1 is for models whose first layer alone depends on it: say the width of the features where "
            "there are stored embeddings or readout='layer_sum'"
        )


def check_keywords(cls: type, given: Iterable[str]) -> None:
    """Refuse what neither a constructor nor PyG's layers take.

    Args:
        cls: The class that is made.
        given: The names of arguments that are handed on to the layers.

    Raises:
        TypeError: One of them is unknown.
    """
    layers = set(inspect.signature(MessagePassing.__init__).parameters) | {"eps"}
    known = {
        name for base in cls.__mro__[:-1] for name in inspect.signature(vars(base).get("__init__", object)).parameters
    } | layers
    known -= {"self", "args", "kwargs"}
    for argument in given:
        if argument in layers:
            continue
        close = difflib.get_close_matches(argument, known, 1)
        advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
        if argument in _OF_EDGES:
            advice = "it is GINE, DistributedGINE or DistributedGINEConv, that has features of edges"
        raise TypeError(f"{cls.__name__} has no argument {argument!r}: {advice}")
