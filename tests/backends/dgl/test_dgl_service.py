"""What a server refuses, asked without a network."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn import EmbeddingSpec, GraphSpec, SpecError, TensorSpec
from distgnn.optim import SGD, Adagrad, Adam, RowWiseAdagrad

if TYPE_CHECKING:
    from pathlib import Path


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_message_of_another_secret_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distgnn.backends.dgl.wire import BadSignatureError, Call, open_wire

    rpc = importlib.import_module("dgl.distributed.rpc")  # only now can it be imported
    monkeypatch.setattr(rpc, "pickle", pickle)
    call = Call("meet", 7, 1, "a call", 1.0, b"content", (torch.arange(3),))
    open_wire("aa" * 32)
    data, tensors = rpc.serialize_to_payload(call)
    read = rpc.deserialize_from_payload(Call, data, tensors)
    assert (read.operation, read.number, read.rank, read.content) == ("meet", 7, 1, b"content")
    assert torch.equal(read.tensors[0], torch.arange(3))
    data, tensors = rpc.serialize_to_payload(
        Call("meet", 7, 1, Bomb(tmp_path / "mark"), 1.0, b"")
    )  # a stranger may send anything
    for secret, message in (("bb" * 32, data), ("aa" * 32, data[:-1]), ("aa" * 32, pickle.dumps(Bomb(tmp_path / "m")))):
        open_wire(secret)
        with pytest.raises(BadSignatureError, match="another signature"):
            rpc.deserialize_from_payload(Call, message, tensors)
    assert not list(tmp_path.iterdir())


def test_arguments_that_the_server_cannot_read_are_answered() -> None:
    from distgnn.backends.dgl.rows import LocalRows
    from distgnn.backends.dgl.service import Service
    from distgnn.backends.dgl.wire import Call

    service = Service(LocalRows(None), part=0, parts=1, world_size=1)
    rule = b"cscript\nMyRule\n."  # a pickle that names a class of a module that is not there
    ((rank, reply),) = service.answer(Call("update", 5, 0, "apply_gradients of embedding store 'words'", 1.0, rule))
    assert (rank, reply.number, reply.error) == (0, 5, "DistGNNError")
    assert "cannot read the arguments of apply_gradients of embedding store 'words' (ModuleNotFoundError" in reply.text
    assert "a rule of your own must be in a module" in reply.text


@pytest.mark.parametrize(
    "asked",
    [
        EmbeddingSpec("words", 10, 4, dtype=torch.float16),
        TensorSpec("layer", (3, 4), torch.int64),
        GraphSpec("graph", 5, 6),
        Adam(lr=0.5),
        RowWiseAdagrad(),
        SGD(lr=0.1),
        torch.Size([3]),
        ("key", {"names": [1, 2.5, None, True, b"bytes"]}),
    ],
)
def test_what_stores_ask_for_is_read_without_code(asked: object) -> None:
    from distgnn.backends.dgl.wire import read_data

    assert read_data(pickle.dumps(("update", asked))) == ("update", asked)


def test_a_server_which_has_used_no_rule_yet_reads_those_of_distgnn() -> None:
    read = "import sys; from distgnn.backends.dgl.wire import read_data; print(read_data(sys.stdin.buffer.read()))"
    rules = [Adam(lr=0.5), RowWiseAdagrad(), SGD(lr=0.1), Adagrad()]
    done = subprocess.run([sys.executable, "-c", read], input=pickle.dumps(rules), capture_output=True, check=False)
    assert done.stdout.decode().strip() == str(rules), done.stderr.decode()


@pytest.mark.parametrize(
    "planted",
    [
        b"cos\nsystem\n(S'touch mark'\ntR.",
        b"cposix\nmkdir\n(S'mark'\ntR.",
        b'cbuiltins\nexec\n(S\'open("mark", "w")\'\ntR.',
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n(S'mark'\ntR.",
        b"ctorch.serialization\nload\n.",
        b"cdistgnn\nuse\n(S'memory'\ntR.",
        b"cdistgnn.distributed.meeting\nsubprocess\n.",
        b"cdistgnn.backends.dgl.launch\nsubprocess\n.",
        b"\x80\x04\x8c\x1bdistgnn.backends.dgl.launch\x8c\x10subprocess.Popen\x93.",
        b"cdistgnn.__main__\nmain\n.",
        b"cdistgnn.nothing\nthere\n.",
        b"cthis\ns\n.",
    ],
)
def test_planted_code_is_refused_where_strangers_may_know_the_key(
    planted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distgnn.backends.dgl.rows import LocalRows
    from distgnn.backends.dgl.service import Service
    from distgnn.backends.dgl.wire import Call, read_data

    monkeypatch.chdir(tmp_path)
    service = Service(LocalRows(None), part=0, parts=1, world_size=1, read=read_data)
    ((_, reply),) = service.answer(Call("update", 5, 0, "apply_gradients of embedding store 'words'", 1.0, planted))
    assert reply.error == "SecretError"
    assert "is code, which is read from ranks on several hosts only where they have a secret: start every" in reply.text
    assert not list(tmp_path.iterdir())


def test_a_message_that_holds_code_is_refused_whoever_signed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distgnn.backends.dgl.wire import Call, CodeRefusedError, open_wire

    rpc = importlib.import_module("dgl.distributed.rpc")
    monkeypatch.setattr(rpc, "pickle", pickle)
    open_wire("aa" * 32)
    planted = Call("meet", 7, 1, Bomb(tmp_path / "mark"), 1.0, b"")
    with pytest.raises(CodeRefusedError):
        rpc.deserialize_from_payload(Call, *rpc.serialize_to_payload(planted))
    assert not list(tmp_path.iterdir())


def test_rows_that_shared_memory_cannot_hold_are_refused_before_they_are_made() -> None:
    from distgnn.backends.dgl.rows import Ranges, ServerRows
    from distgnn.storage.specs import PartitionBook

    huge = torch.empty(1).expand(1 << 50)
    words = r"'words' needs 4,503,599,627,370,496 bytes of shared memory on a host, and [0-9,]+ are free"
    with pytest.raises(SpecError, match=words):
        ServerRows(None).keep("node~kind~words", Ranges("kind", PartitionBook.even(1 << 50, 1), 0), huge)
