"""The state of a monitor, and what it cost so far."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Status:
    """A monitor at one moment; by default one that does nothing, as on all ranks but the first.

    Attributes:
        snapshots: taken so far; each is published, pending or dropped.
        published: reports published.
        pending: snapshots whose results are not all in.
        skipped: snapshots that were not taken because no slot was free.
        over_budget: snapshots that were not taken because the budget was used up.
        failed: results that did not come back, over all layers and snapshots; with ``spool``, snapshots not written.
        lag_steps: steps since the oldest pending snapshot; 0 if there is none.
        worker_pids: process ids of the workers; empty before they start, and with an executor of the user's.
        worker_memory: their resident memory in bytes; None if the system does not tell.
        worker_cpu: CPU seconds that the analysis took.
        snapshot_bytes: memory reserved for the copies.
        copy_seconds: time that training waited for the copies.
        waited_seconds: time that training waited for results at snapshots, see ``deterministic``.
        hook_seconds: time that training spent in the monitor, copies and waiting included.
        wall_seconds: time since the start.
        staleness: steps since each analysed layer was analysed last, by name; None if it never was.
        spooled: snapshots written into the folder ``spool``; None without one.
    """

    snapshots: int = 0
    published: int = 0
    pending: int = 0
    skipped: int = 0
    over_budget: int = 0
    failed: int = 0
    lag_steps: int = 0
    worker_pids: tuple[int, ...] = ()
    worker_memory: int | None = None
    worker_cpu: float = 0.0
    snapshot_bytes: int = 0
    copy_seconds: float = 0.0
    waited_seconds: float = 0.0
    hook_seconds: float = 0.0
    wall_seconds: float = 0.0
    staleness: Mapping[str, int | None] = field(default_factory=dict)
    spooled: int | None = None

    def __str__(self) -> str:
        """One line: what was done and what it cost.

        Example:
            >>> str(Status(3, 3, 0, 1, 0, 0, 0, (), None, 1.5, 2**20, 0.01, 0.0, 0.02, 10.0, {"fc": 0})).split(";")[0]
            '3 of 4 snapshots analysed, 1 skipped, 0 over budget, 0 results failed'
        """
        wall = max(self.wall_seconds, 1e-9)
        if self.spooled is None:
            done, how, work = self.published, "analysed", "the analysis"
        else:
            done, how, work = self.spooled, "written", "writing"
        return (
            f"{done} of {self.snapshots + self.skipped + self.over_budget} snapshots {how}, "
            f"{self.skipped} skipped, {self.over_budget} over budget, {self.failed} results failed; "
            f"training waited {self.hook_seconds:.2g} s ({100 * self.hook_seconds / wall:.2f} % of "
            f"{self.wall_seconds:.3g} s), {self.copy_seconds:.2g} s of it for copies of "
            f"{self.snapshot_bytes / 2**20:.0f} MiB and {self.waited_seconds:.2g} s for results; "
            f"{work} took {self.worker_cpu:.3g} s of CPU time ({self.worker_cpu / wall:.2f} cores)"
        )


def resident_bytes(pids: Iterable[int]) -> int | None:
    """Resident memory of some processes; None if the system does not tell.

    Example:
        >>> resident_bytes([]), (resident_bytes([os.getpid()]) or 2**20) > 2**19
        (0, True)
    """
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return None
    return total
