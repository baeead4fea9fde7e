"""What the detectors of findings need to know of the reports so far, kept from one report to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ww_callbacks.report import LayerReport, Report
from ww_callbacks.signals.scales import distances, fall_of, finite, growth_of


class Path(NamedTuple):
    """How far a layer came, and on which way.

    Attributes:
        results: number of results since the first snapshot.
        steps: number of steps since then.
        length: sum of the update norms of these results.
        last: update norm of the last of them.
        learned: update norm of the change since the first snapshot. It equals the length if the way is straight.
    """

    results: int
    steps: int
    length: float
    last: float
    learned: float


@dataclass(frozen=True)
class Seen:
    """A report, and what is known of those before it.

    Attributes:
        report: the latest results of all layers.
        fresh: the layers that were newly analysed; the others wait for their turn.
        first: the first result of each layer; it has no norm if the layer was zero then.
        starts: log10 of the scale of each layer in its first result, divided by that of the others, see
            :func:`ww_callbacks.signals.scales.distances`.
        before: the result of each fresh layer before this one.
        paths: of the fresh layers; none with gaps, or without update norms.
        is_plateau: whether the rule "plateau" is at its full score.
        has_decayed: whether the learning rate, where it is known, has fallen to less than half.
    """

    report: Report
    fresh: tuple[LayerReport, ...]
    first: Mapping[str, LayerReport] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, LayerReport] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)
    is_plateau: bool = False
    has_decayed: bool = False

    @cached_property
    def scales(self) -> dict[str, float]:
        """The same as ``starts``, of the report."""
        return distances(self.report.layers)

    @cached_property
    def growths(self) -> dict[str, float]:
        """log10 of the Frobenius norm of each layer that moves, but adapters, divided by that of its first result."""
        found = {}
        for layer in self.report.layers:
            first = self.first.get(layer.name)
            if first is not None and layer.role != "adapter" and layer.unchanged_since is None:
                growth = growth_of(layer, first)
                if growth is not None:
                    found[layer.name] = growth
        return found

    @cached_property
    def falls(self) -> dict[str, float]:
        """The fall of the Frobenius norm of each fresh layer since its result before, as a share of the norm now."""
        found = {}
        for layer in self.fresh:
            before = self.before.get(layer.name)
            if before is not None and layer.role != "adapter":
                fall = fall_of(layer, before)
                if fall is not None:
                    found[layer.name] = fall
        return found

    @classmethod
    def alone(cls, report: Report) -> Seen:
        """A report of which nothing else is known."""
        return cls(report, tuple(layer for layer in report.layers if not layer.is_waiting))


class Courses:
    """The first and the latest result of each layer, and its path.

    Its memory and its time per report grow with the number of layers, not with the number of reports.

    Example:
        >>> courses = Courses()
        >>> for step, norm in [(0, 4.0), (10, 9.0), (20, 16.0)]:
        ...     seen = courses.add(Report((LayerReport(name="fc", kind="Linear", norm=norm, step=step),), step))
        >>> seen.first["fc"].norm, seen.before["fc"].norm, seen.fresh[0].norm
        (4.0, 9.0, 16.0)
    """

    def __init__(self) -> None:
        self._first: dict[str, LayerReport] = {}
        self._latest: dict[str, LayerReport] = {}
        self._starts: dict[str, float] = {}
        self._paths: dict[str, Path] = {}

    def add(self, report: Report, *, is_plateau: bool = False, has_decayed: bool = False) -> Seen:
        """Take a report; reports come in the order of their steps.

        Args:
            report: the latest one.
            is_plateau: whether the rule "plateau" is at its full score.
            has_decayed: whether the learning rate has fallen to less than half.
        """
        fresh = tuple(layer for layer in report.layers if self._is_new(layer))
        before = {layer.name: self._latest[layer.name] for layer in fresh if layer.name in self._latest}
        known = len(self._first)
        paths: dict[str, Path] = {}
        for layer in fresh:
            if layer.name not in self._first and (
                layer.status == "ok" or layer.norm is not None or layer.skip_reason == "zero"
            ):
                self._first[layer.name] = layer
            path = _path(layer, before.get(layer.name), self._paths.get(layer.name))
            if path is not None:
                paths[layer.name] = path
            self._latest[layer.name] = layer
        if len(self._first) > known:
            self._starts = distances(self._first.values())
        self._paths |= paths
        for layer in fresh:
            if layer.name not in paths:
                self._paths.pop(layer.name, None)
        return Seen(report, fresh, self._first, self._starts, before, paths, is_plateau, has_decayed)

    def _is_new(self, layer: LayerReport) -> bool:
        """Whether this is another result than the last one; a layer that waits for its turn repeats its result."""
        if layer.is_waiting:
            return False
        last = self._latest.get(layer.name)
        return last is None or layer.step is None or layer.step != last.step


def _path(layer: LayerReport, before: LayerReport | None, path: Path | None) -> Path | None:
    """The path with one result more; None if results are missing in between."""
    update, learned = finite(layer.update_norm), finite(layer.learned_norm)
    if update is None or learned is None:
        return None
    steps = (layer.step or 0) - (layer.learned_since or 0)
    if layer.update_since == layer.learned_since:  # the first result after the first snapshot
        return Path(1, steps, update, update, learned)
    if path is None or before is None or before.step != layer.update_since:
        return None
    if before.learned_since != layer.learned_since:  # a run that was resumed has another first snapshot
        return None
    return Path(path.results + 1, steps, path.length + update, update, learned)
