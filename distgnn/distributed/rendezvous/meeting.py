"""Meeting of the ranks of a job in its store."""

from __future__ import annotations

import json
import os
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # it is there

from distgnn._version import __version__
from distgnn.distributed.agreement import check_agreement
from distgnn.distributed.rendezvous.addresses import LOOPBACK, name_of_host, outward_address
from distgnn.distributed.rendezvous.authentication import FILE_VARIABLE, VARIABLE, is_signed, job_secret, sign
from distgnn.distributed.rendezvous.store_guard import is_offered, shared_secret
from distgnn.distributed.rendezvous.waiting import first_line, listed, within
from distgnn.errors import ConfigError, PeerLostError, SecretError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.distributed import Store  # type: ignore[attr-defined]  # it is there

_LAST_SECONDS = 2.0  # more than what comes late by itself takes


class Said(NamedTuple):
    """A rank's facts about itself at the rendezvous.

    Args:
        name: A name that it made up.
        host: The name of its host.
        address: Where others reach it.
        facts: What must be the same on every rank.
    """

    name: str
    host: str
    address: str
    facts: dict[str, str]


class Meeting(NamedTuple):
    """The ranks that came.

    Args:
        store: A part of the job's store that is theirs alone.
        key: A key that they share.
        is_private: Whether nobody else can know it.
        ranks: What each said.
    """

    store: PrefixStore
    key: bytes
    is_private: bool
    ranks: list[Said]


def meet(
    store: Store, rank: int, size: int, timeout: float, facts: Mapping[str, str] | None = None, *, local: bool = False
) -> Meeting:
    """Wait until every rank has come.

    The store of torchrun remembers what earlier attempts of a restarted job wrote there. So rank 0 opens a meeting of a
    new name and lists in it who has come: this process is not on the list of an earlier one.

    The store takes words from anybody. Where the job has a secret, rank 0 lists only who signs the meeting's new name
    with it, and signs the list, on which every rank finds the new name that it made for itself. Where all ranks are
    known to be on one host and have none, rank 0 makes one, see :mod:`distgnn.distributed.rendezvous.store_guard`.

    Args:
        store: Where they leave word for each other.
        rank: This process's rank.
        size: How many there are.
        timeout: Seconds to wait.
        facts: What must be the same on every rank, beside versions and ``DISTGNN_DEBUG``.
        local: Whether all of them are known to run on this host.

    Raises:
        ConfigError: Ranks differ, or one was started twice.
        PeerLostError: A rank has not come in time.
        SecretError: The job has another secret than this process.
    """
    given = job_secret()
    me = uuid.uuid4().hex
    own = Said(me, name_of_host(), outward_address(os.environ.get("MASTER_ADDR", LOOPBACK)), _facts(size, facts or {}))
    text = json.dumps(own)
    deadline = time.monotonic() + timeout
    came: list[Said | str] = ["-"]

    def look(secret: bytes) -> Meeting | None:
        if rank == 0:
            store.set("meeting", me)
        while time.monotonic() < deadline:
            name = store.get("meeting").decode()
            meeting = PrefixStore(name, store)
            meeting.set(str(rank), f"{sign(secret, name, rank, text).hex()} {text}")
            if rank == 0:
                listed_now = json.dumps([_came(meeting, name, secret, one) for one in range(size)])
                meeting.set("came", f"{sign(secret, name, 'came', listed_now).hex()} {listed_now}")
            signature, _, everybody = meeting.get("came").decode(errors="replace").partition(" ")
            if not is_signed(signature, secret, name, "came", everybody):
                theirs = "one that it made for its own host" if is_offered(store) else "another"
                is_open = is_signed(signature, b"", name, "came", everybody)
                raise _not_admitted(rank, size, given, "none" if is_open else theirs)
            came[:] = [Said(*one) if isinstance(one, list) else one for one in json.loads(everybody)]
            _check_agreement(meeting, rank, own, came)
            if _is_there(own, rank, came) and not {"-", "?"} & {one for one in came if isinstance(one, str)}:
                ranks = [one for one in came if isinstance(one, Said)]
                return Meeting(meeting, sign(secret, name, "key"), bool(secret), ranks)
            time.sleep(0.01)
        return None

    def join() -> Meeting | None:
        with shared_secret(store, rank, given, deadline, local=local) as secret:
            return look(secret)

    failure: Exception | None = None
    try:
        found = within(timeout + 1, join)
    except (RuntimeError, TimeoutError) as error:
        found, failure = None, error  # rank 0, or its launcher, is gone with the store
    if found is None:
        raise _not_met(rank, size, timeout, came, failure) from failure
    return found


def _not_met(
    rank: int, size: int, timeout: float, came: Sequence[Said | str], failure: Exception | None
) -> PeerLostError:
    """Say who has not come, or who was there and is no more.

    Args:
        rank: This process's rank.
        size: How many there are.
        timeout: The seconds that it waited.
        came: What rank 0 has listed last.
        failure: Why its store does not answer, if it does not.
    """
    # Where rank 0 is gone, it lists nobody more: this rank is there, and it is not.
    missing = [one for one, said in enumerate(came) if isinstance(said, str) and one != rank]
    if failure is not None and came and not missing:
        return store_lost(rank, size, failure)
    missing = missing or [0]
    strangers = [one for one in missing if came[one] == "?"]
    return PeerLostError(
        f"{size - len(missing)} of {size} ranks came to the start of the job in {timeout:g} s, without "
        f"{listed(missing)}: start {size} processes, or give them more time with timeout=..."
        + (f"; whoever came as {listed(strangers)} has not the job's secret" if strangers else "")
    )


def store_lost(rank: int, size: int, failure: Exception) -> PeerLostError:
    """Say that the job's store does not answer: whoever keeps it is lost.

    Args:
        rank: This process's rank.
        size: The world size.
        failure: Why it does not answer.
    """
    keeper = "the launcher" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
    return PeerLostError(
        f"{keeper}, which keeps the job's store, is gone or silent, noticed by rank {rank} in the start of the job: "
        f"start all {size} processes again ({first_line(failure)})"
    )


def _facts(size: int, facts: Mapping[str, str]) -> dict[str, str]:
    return {
        "WORLD_SIZE": str(size),
        **facts,
        "distgnn's version": __version__,
        "torch's version": torch.__version__.partition("+")[0],
        "DISTGNN_DEBUG": os.environ.get("DISTGNN_DEBUG") or "not set",
    }


def _came(meeting: PrefixStore, name: str, secret: bytes, rank: int) -> Said | str:
    """Return what a rank says, ``-`` where it has not come, ``?`` where its signature is wrong."""
    if not meeting.check([str(rank)]):
        return "-"
    signature, _, text = meeting.get(str(rank)).decode(errors="replace").partition(" ")
    if not is_signed(signature, secret, name, rank, text):
        return "?"
    try:
        return Said(*json.loads(text))
    except (TypeError, ValueError):
        return "?"  # of another version, or a stranger where there is no secret


def _check_agreement(meeting: PrefixStore, rank: int, own: Said, came: Sequence[Said | str]) -> None:
    """Compare what those say who have come; who finds a difference lets the others find it too."""
    said = {number: one.facts for number, one in enumerate(came) if isinstance(one, Said)}
    try:
        check_agreement({**said, rank: own.facts})
    except ConfigError:
        meeting.set(f"read/{rank}", "yes")
        deadline = time.monotonic() + _LAST_SECONDS
        while rank == 0 and time.monotonic() < deadline and not meeting.check([f"read/{one}" for one in said if one]):
            time.sleep(0.01)
        raise


def _is_there(own: Said, rank: int, came: Sequence[Said | str]) -> bool:
    """Tell whether this process is on the list; the store of torchrun may show that of an earlier attempt."""
    there = came[rank] if rank < len(came) else "-"
    if isinstance(there, str) or there.name == own.name:
        return not isinstance(there, str)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and "-" not in came:
        raise ConfigError(
            f"rank {rank} was started twice: another process came as rank {rank} before this one; give every process a "
            "RANK of its own"
        )
    return False


def _not_admitted(rank: int, size: int, secret: bytes, theirs: str) -> SecretError:
    return SecretError(
        f"rank {rank} is not admitted to the job of {size} ranks: it has {'a' if secret else 'no'} secret, and rank 0 "
        f"has {theirs}; start every rank with the same {VARIABLE} or {FILE_VARIABLE}"
    )
