"""The needs of a run by number of machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distgnn.errors import ConfigError
from distgnn.plan.job import even_part
from distgnn.plan.memory import memory
from distgnn.plan.traffic import traffic

if TYPE_CHECKING:
    from distgnn.plan.job import Job, Part

IMPORTED = 0.5e9  # bytes of a process that has imported everything: some 480 MB with torch 2.13 on a CPU
_MOST = 1 << 20  # machines


@dataclass(frozen=True)
class Pace:
    """The measured speed of a machine.

    Args:
        node: Seconds of a step for each node of a rank alone, with the layers' work and the table's.
        byte: Seconds of a step for each byte that a rank sends, and receives, network aside.
    """

    node: float
    byte: float


@dataclass(frozen=True)
class Estimate:
    """A run on so many machines, a rank on each.

    Args:
        ranks: How many.
        nodes: Own nodes of a rank.
        edges: Edges that end in them.
        halo: Nodes of others that these come from.
        memory: Bytes at the rank's peak, by the names of :func:`~distgnn.plan.memory.memory`.
        sent: Bytes that a rank sends in a step, by what they are for.
        seconds: Of a step, by what takes them; empty where nothing was measured.
    """

    ranks: int
    nodes: float
    edges: float
    halo: float
    memory: dict[str, float]
    sent: dict[str, float]
    seconds: dict[str, float]

    @property
    def bytes_needed(self) -> float:
        """Memory of a machine."""
        return sum(self.memory.values())

    @property
    def bytes_sent(self) -> float:
        """What a rank sends in a step."""
        return sum(self.sent.values())

    @property
    def steps_a_second(self) -> float | None:
        """Steps, which are epochs, a second; None where nothing was measured."""
        return 1 / sum(self.seconds.values()) if self.seconds else None

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        sums = {name: getattr(self, name) for name in ("bytes_needed", "bytes_sent", "steps_a_second")}
        return asdict(self) | sums


def estimate(job: Job, part: Part, ranks: int, *, pace: Pace | None = None, network: float) -> Estimate:
    """Put together what a run needs.

    Args:
        job: The run.
        part: What the largest rank has.
        ranks: How many there are.
        pace: How fast machines compute; None leaves time out.
        network: Bytes a second that a machine sends while it receives as many.
    """
    going = traffic(job, part, ranks)
    sent = sum(going)
    seconds = {}
    if pace is not None:
        seconds = {
            "computing": pace.node * part.nodes,
            "exchanging": pace.byte * going.stores,
            "network": sent / network,
        }
    needed = memory(job, part, ranks)
    needed["process"] += IMPORTED
    return Estimate(ranks, part.nodes, part.edges, part.halo, needed, going._asdict(), seconds)


def fewest_machines(job: Job, room: float, halo_ratio: float | None = None) -> int:
    """Return the smallest number of machines of ``room`` bytes each that have memory enough.

    Raises:
        ConfigError: No number has.
    """

    def fits(ranks: int) -> bool:
        return IMPORTED + sum(memory(job, even_part(job, ranks, halo_ratio), ranks).values()) <= room

    high = 1
    while not fits(high):
        high *= 2
        if high > _MOST:
            raise ConfigError(
                f"no number of machines up to {_MOST:,} is enough: each needs more than {room / 1e9:,.1f} GB"
            )
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
