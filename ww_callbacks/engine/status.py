"""How the monitoring is doing, and what it cost."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Status:
    """A monitor at one moment.

    Attributes:
        snapshots: taken so far; each is published, under way or dropped.
        published: reports published.
        under_way: snapshots whose results are not all in.
        skipped: snapshots that found no free slot.
        failed: results that did not come back, over all layers and snapshots.
        lag_steps: steps since the oldest snapshot under way; 0 where there is none.
        worker_pids: processes that analyse; empty where they are not ours or not started.
        worker_memory: their resident memory in bytes; None where the system does not tell.
        worker_cpu: CPU seconds that the analysis took.
        snapshot_bytes: memory reserved for the copies.
        copy_seconds: time that training waited for the copies.
        hook_seconds: time that training spent in the monitor, the copies included.
        wall_seconds: time since the start.
        staleness: steps since each analysed layer was looked at last, by name; None where it never was.
    """

    snapshots: int
    published: int
    under_way: int
    skipped: int
    failed: int
    lag_steps: int
    worker_pids: tuple[int, ...]
    worker_memory: int | None
    worker_cpu: float
    snapshot_bytes: int
    copy_seconds: float
    hook_seconds: float
    wall_seconds: float
    staleness: dict[str, int | None]

    def __str__(self) -> str:
        """One line: what was done and what it cost.

        Example:
            >>> str(Status(3, 3, 0, 1, 0, 0, (), None, 1.5, 2**20, 0.01, 0.02, 10.0, {"fc": 0})).split(";")[0]
            '3 of 4 snapshots analysed, 1 skipped, 0 results failed'
        """
        wall = max(self.wall_seconds, 1e-9)
        return (
            f"{self.published} of {self.snapshots + self.skipped} snapshots analysed, {self.skipped} skipped, "
            f"{self.failed} results failed; training waited {self.hook_seconds:.2g} s "
            f"({100 * self.hook_seconds / wall:.2f} % of {self.wall_seconds:.3g} s), {self.copy_seconds:.2g} s of it "
            f"for copies of {self.snapshot_bytes / 2**20:.0f} MiB; the analysis took {self.worker_cpu:.3g} s of CPU "
            f"time ({self.worker_cpu / wall:.2f} cores)"
        )


def resident_bytes(pids: Iterable[int]) -> int | None:
    """Resident memory of some processes; None where the system does not tell.

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
