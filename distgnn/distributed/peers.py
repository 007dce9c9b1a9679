"""The watch over a job's ranks: who is lost."""

from __future__ import annotations

import atexit
import os
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from distgnn.distributed.rendezvous.meeting import store_lost
from distgnn.distributed.rendezvous.waiting import first_line, listed, within
from distgnn.errors import PeerLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.distributed import Store, Work  # type: ignore[attr-defined]  # they are there

_LOOK_SECONDS = 0.5  # between two looks at whether another rank has noticed a loss
_GRACE = 2.0  # seconds in which ranks that noticed a loss say that they are alive
_GONE, _SILENT = "gone", "silent"
_NOBODY = "no rank is gone, but a connection broke or a rank was silent for too long"


class Others(Protocol):
    """Processes of a job besides its ranks, such as servers."""

    def gone(self) -> str:
        """Say which are known to be gone, or nothing; nobody is waited for."""
        ...

    def silent(self) -> str:
        """Say which are gone or do not answer now, or nothing."""
        ...


class PeerWatch:
    """A rank's knowledge of lost peers, for every wait.

    Whoever notices a failure says so in the job's store. Every wait looks there from time to time, and who is alive
    says that it has noticed too: those that do not say so are lost.

    Args:
        store: Where ranks of this job, and no others, leave word; it outlives process groups.
        rank: This rank.
        size: The world size.
        timeout: Seconds that a rank waits for another.

    Attributes:
        timeout: The same.
        others: What else may be lost, once it is connected.

    Raises:
        PeerLostError: The store does not answer.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float) -> None:
        # A connection of its own: torch's lets one call wait for another, as those that connect ranks wait.
        # It has no clone before torch 2.8, and waits without end for a keeper that is stopped.
        try:
            self._store = within(timeout, store.clone) if hasattr(store, "clone") else store
        except (RuntimeError, TimeoutError) as error:
            raise store_lost(rank, size, error) from error
        self._rank, self._size = rank, size
        self.timeout = timeout
        self.others: Others | None = None
        self._failure = ""
        self._is_store_gone = False
        self._heard = ""
        self._asking: Thread | None = None

    @contextmanager
    def noticing(self, call: str, release: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Raise what goes wrong within as the loss of a rank.

        Args:
            call: What is waited for, as a user would say it.
            release: What makes others notice at once, as closing connections does.

        Raises:
            PeerLostError: A rank is gone or silent, now or before.
        """
        self.check()
        if self.others is not None and (who := self.others.gone()):
            raise self.fail(who, call)
        begin = time.monotonic()
        try:
            yield
        except PeerLostError:
            raise
        except (OSError, RuntimeError) as error:
            release()
            named = self._named(*self._heard_from(self._how(begin)))
            # A rank may have ended because of a server; and one that is silent keeps ranks that wait for each other.
            who = (self.others.gone() if self.others is not None else "") or named
            if not who and self.others is not None:
                who = self.others.silent()
            if who:
                raise self.fail(who, call) from error
            raise self.fail(_NOBODY, call, f" ({first_line(error)})") from error

    @contextmanager
    def connecting(self, call: str) -> Iterator[None]:
        """Raise what goes wrong within as the loss of a rank, or as it is where no rank is lost.

        Args:
            call: What is waited for.

        Raises:
            PeerLostError: A rank is gone or silent, or another has met an error.
        """
        begin = time.monotonic()
        try:
            yield
        except (OSError, RuntimeError) as error:
            own = str(error) if isinstance(error, PeerLostError) else ""
            how = self._how(begin)
            # What goes wrong before the time is over tells itself; after that it may be that somebody is not there.
            missing, said = self._heard_from(f"{how}\n{own}" if how == _SILENT or not own else own)
            who = self._named(missing, said)
            if own and (who in {own, ""} or said.endswith(f"\n{who}")):
                raise  # each rank knows best why it cannot reach others that are there
            if who:
                raise self.fail(who, call) from error
            raise self.fail(_NOBODY, call, f" ({first_line(error)})") from error

    def wait(self, work: Work) -> None:
        """Wait for what a gloo group does, and look meanwhile.

        Raises:
            RuntimeError: It has failed.
            ConnectionError: Another rank has noticed a loss.
        """
        while True:
            try:
                work.wait(timedelta(seconds=_LOOK_SECONDS))
            except RuntimeError:  # noqa: PERF203  # it waits
                if work.is_completed():
                    work.wait()  # it ended since, well or by its own error: no look is its failure
                    return
                self.look()
            else:
                return

    def look(self) -> None:
        """See whether another rank has noticed a loss; nothing is waited for.

        Raises:
            ConnectionError: One has.
        """
        if self._heard:
            raise ConnectionError(self._heard)
        if self._asking is None or not self._asking.is_alive():
            # A store whose keeper is stopped does not answer at all.
            self._asking = Thread(target=self._ask, daemon=True)
            self._asking.start()
            atexit.unregister(self._let_end)
            atexit.register(self._let_end)

    def check(self) -> None:
        """Refuse to go on after a loss.

        Raises:
            PeerLostError: One was noticed before.
        """
        if self._failure:
            raise PeerLostError(self._failure)

    @property
    def has_failed(self) -> bool:
        """Whether a loss was noticed."""
        return bool(self._failure)

    def fail(self, who: str, call: str, reason: str = "") -> PeerLostError:
        """Take a loss as noticed, and let the others know; every later call fails by it.

        Args:
            who: Who is lost, and how.
            call: In which it was noticed.
            reason: What is known besides, in parentheses.
        """
        if not self._failure:
            self._failure = (
                f"{who}, noticed by rank {self._rank} in {call}; the job cannot go on: start it again from its last "
                f"checkpoint{reason}"
            )
            if not self._is_store_gone:
                with suppress(RuntimeError, TimeoutError):
                    within(_GRACE, lambda: self._say(who))
        return PeerLostError(self._failure)

    def _how(self, begin: float) -> str:
        return _SILENT if time.monotonic() - begin > 0.9 * self.timeout else _GONE

    def _heard_from(self, how: str) -> tuple[list[int], str]:
        """Return who does not say in time that they noticed a failure too, and what the first who noticed it knew.

        Args:
            how: What this rank knows: who is lost, and how; or how those are lost that do not answer, and on a second
                line what it is if all do. The first to notice a failure knows best, and is believed.
        """
        missing = [rank for rank in range(self._size) if rank != self._rank]
        said = [how]
        deadline = time.monotonic() + _GRACE

        def ask() -> None:
            said[0] = self._say(how)
            while missing and time.monotonic() < deadline:
                if self._store.check([f"alive/{missing[0]}"]):
                    del missing[0]
                else:
                    missing.append(missing.pop(0))
                    time.sleep(0.01)

        try:
            if self._is_store_gone:
                raise ConnectionError
            within(_GRACE + 1, ask)
        except (OSError, RuntimeError) as error:
            # The store does not answer, and rank 0, or its launcher, keeps it; but it may have ended after it answered.
            if 0 in missing:
                missing[:] = [0]
                said[0] = _SILENT if isinstance(error, TimeoutError) else _GONE
        return sorted(missing), said[0]

    def _named(self, missing: Sequence[int], said: str) -> str:
        how, _, text = said.partition("\n")
        if how not in {_GONE, _SILENT}:
            return said
        how = f"silent for {self.timeout:g} s" if how == _SILENT else how
        if len(missing) > 1:
            return f"one or more of {listed(missing)} are {how}"
        return f"{listed(missing)} is {how}" if missing else text

    def _say(self, how: str) -> str:
        """Say that this rank is alive and has noticed a failure; return how the first who noticed it saw it."""
        self._store.set(f"alive/{self._rank}", "yes")
        # Ranks that wait as long cut each other off, so that only the first of them knows that it was a timeout.
        return str(self._store.compare_set("loss", "", how).decode())

    def _ask(self) -> None:
        try:
            if self._store.check(["loss"]):
                self._heard = "another rank has noticed a failure"
        except RuntimeError as error:
            # Ranks go on without a launcher that is gone; but what rank 0 keeps goes with it.
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                self._is_store_gone = True
                self._heard = f"the job's store is gone: {first_line(error)}"

    def _let_end(self) -> None:
        if self._asking is not None:
            self._asking.join(_GRACE)
