"""The two messages between rank and server, and their signature.

DGL sends tensors as they are and pickles the rest; it unpickles whatever arrives. So that rest is signed with the key
of the job, and refused unread when the signature is another. What these messages hold needs no code to be read, and
their reader runs none. Only arguments of a call may need some, as a rule of a user's own: they are unpickled where
strangers cannot know the key, and elsewhere refused. Tensors and message lengths are not signed and nothing is
encrypted: a network that others can write to is no place for these messages.
"""

from __future__ import annotations

import hmac
import io
import pickle
import sys
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from dgl.distributed import rpc

import distgnn.optim.rules  # noqa: F401  # a server uses none until a message names its class
from distgnn import errors
from distgnn.distributed.rendezvous.authentication import FILE_VARIABLE, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

QUEUE_BYTES = 1 << 40  # that is, no limit: callers wait for answers
_SERVICE = 0x6E0100  # DGL's own services have smaller numbers
_SIGNATURE_BYTES = 32
_RULES = "distgnn.optim.rules"


class BadSignatureError(Exception):
    """A message that was not signed with the job's secret."""


class CodeRefusedError(Exception):
    """A message that could run code and has no private key."""


class _Message:
    """Plain fields first, then ``tensors``, as DGL wants them."""

    tensors: tuple[Tensor, ...]

    def __getstate__(self) -> tuple[object, ...]:
        plain = [getattr(self, field.name) for field in fields(self) if field.name != "tensors"]  # type: ignore[arg-type]
        return (*plain, *map(_dense, self.tensors))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        names = [field.name for field in fields(self) if field.name != "tensors"]  # type: ignore[arg-type]
        vars(self).update(zip(names, state, strict=False), tensors=state[len(names) :])


def _dense(tensor: Tensor) -> Tensor:
    # DGL minds the stride of a size of 0 or 1, torch does not.
    odd = not {0, 1}.isdisjoint(tensor.shape)
    return tensor.clone(memory_format=torch.contiguous_format) if odd else tensor.contiguous()


@dataclass
class Call(_Message, rpc.Request):
    """A rank's call of a server.

    Args:
        operation: Name of the operation; see :mod:`distgnn.backends.dgl.service`.
        number: Counts the rank's calls; the answer carries it too.
        rank: Who asks.
        about: What the call is for, as a user would say it.
        timeout: Seconds that the server waits for the other ranks.
        content: The pickled arguments. Not part of DGL's pickle, so that a failure to read them has an answer.
        tensors: The rest of the arguments.
    """

    operation: str
    number: int
    rank: int
    about: str
    timeout: float
    content: bytes
    tensors: tuple[Tensor, ...] = ()

    def process_request(self, server_state: object) -> None:
        """Nothing: the server's loop looks at calls itself."""


@dataclass
class Reply(_Message, rpc.Response):
    """A server's answer.

    Args:
        number: That of the call; 0 tells everybody that the job is over.
        part: Which server.
        error: Name of the error's class in :mod:`distgnn.errors`, or nothing.
        text: The error's text.
        tensors: The result.
    """

    number: int
    part: int
    error: str = ""
    text: str = ""
    tensors: tuple[Tensor, ...] = ()

    def check(self) -> None:
        """Raise the error that it carries, if it does."""
        if self.error:
            raise getattr(errors, self.error)(self.text)


class _DataUnpickler(pickle.Unpickler):
    """Reads what needs no code: plain values, types and sizes of torch, and dataclasses of distgnn."""

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module.partition(".")[0] == "distgnn" and "." not in name:
            # A server has not imported the rules before the first update; to import other modules might run something.
            home = import_module(module) if module == _RULES else sys.modules.get(module)
            found = getattr(home, name, None)
            if isinstance(found, type) and is_dataclass(found) and found.__module__ == module:
                return found
        raise CodeRefusedError(
            f"{module}.{name} is code, which is read from ranks on several hosts only where they have a secret: start "
            f"every rank with the same {FILE_VARIABLE} or {VARIABLE}"
        )


class _SignedPickle:
    """Takes the place of the module ``pickle`` in DGL's RPC."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def dumps(self, content: object) -> bytes:
        data = pickle.dumps(content)
        return hmac.digest(self._secret, data, "sha256") + data

    def loads(self, message: bytes) -> object:
        data = bytes(message)[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(hmac.digest(self._secret, data, "sha256"), bytes(message)[:_SIGNATURE_BYTES]):
            raise BadSignatureError("a message with another signature than this job's was refused")
        return read_data(data)


def read_data(data: bytes) -> Any:
    """Read what was pickled, if that needs no code.

    Raises:
        CodeRefusedError: It needs some.
    """
    return _DataUnpickler(io.BytesIO(data)).load()


def read_code(data: bytes) -> Any:
    """Unpickle what nobody but a rank of this job can have signed."""
    return pickle.loads(data)  # noqa: S301  # as above


def open_wire(secret: str) -> None:
    """Make this process speak and understand these messages, and sign all of DGL's."""
    rpc.pickle = _SignedPickle(bytes.fromhex(secret))
    rpc.register_service(_SERVICE, Call, Reply)


@contextmanager
def ip_config(addresses: Sequence[str]) -> Iterator[str]:
    """Write the file in which DGL looks for its servers; it reads it at once and needs it no more."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # DGL leaves it open
        file.write("".join(f"{address.replace(':', ' ')}\n" for address in addresses))
        file.flush()
        yield file.name
