"""State restored when a run resumes from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeGuard

from ww_callbacks.engine import Missed
from ww_callbacks.monitor.publishing import Published
from ww_callbacks.printable import quoted_list
from ww_callbacks.report import History, Report
from ww_callbacks.report.columns import is_count
from ww_callbacks.signals.learning_rate import VERDICTS, are_ratios
from ww_callbacks.signals.stop import VERDICT, is_verdict
from ww_callbacks.weights import Layer

Size = tuple[int, int, int]
"""Number of matrices, and the larger and the smaller side of each."""

_LOST, _NEW = "only in the checkpoint or of another size there", "not in the checkpoint"


@dataclass(frozen=True, slots=True)
class Resumed:
    """A monitor at the moment of a checkpoint.

    Attributes:
        step: finished optimizer steps.
        last_snapshot: step of the last snapshot; its results may not have been in.
        missed: snapshots missed so far.
        history: the reports that were in.
        published: what was known at the last snapshot step.
    """

    step: int
    last_snapshot: int | None
    missed: Missed
    history: History
    published: Published

    @property
    def last_report(self) -> int | None:
        """Step of the last snapshot whose results were in."""
        return self.history.steps[-1] if len(self.history) else None

    def is_snapshot_due(self, step: int, every: int | None, done: int | None) -> bool:
        """Whether a resumed run starts with a snapshot: results were lost, or one has become due since.

        Args:
            step: finished optimizer steps when the run resumes.
            every: steps between snapshots, None if they are not scheduled by steps.
            done: step of the last snapshot of which something is left: its report or, with ``spool``, its file.

        Example:
            >>> known = Resumed(12, 10, Missed(), History(), Published())
            >>> known.is_snapshot_due(12, every=10, done=known.last_report)  # of step 10 there is no report
            True
        """
        lost = done is None or done != self.last_snapshot
        return lost or (every is not None and step // every > self.step // every)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "step": self.step,
            "last_snapshot": self.last_snapshot,
            "skipped": self.missed.skipped,
            "over_budget": self.missed.over_budget,
            "history": self.history.state_dict(),
            "late": self.history.seen - self.published.reports,
            "published": asdict(self.published),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Resumed:
        """The inverse of :meth:`state_dict`.

        Raises:
            ValueError: ``state`` is not of that form.
        """
        try:
            history = History.from_state_dict(state["history"])
            last, *numbers = (state[name] for name in ("last_snapshot", "step", "skipped", "over_budget", "late"))
            if not all(map(_is_step, numbers)) or not (last is None or _is_step(last)):
                raise ValueError("steps and counts have to be whole numbers")
            step, skipped, over_budget, late = numbers
            if late > history.seen:
                raise ValueError(f"{late} of {history.seen} reports cannot be late")
            published = Published(**state["published"] | {"reports": history.seen - late})
            if not _is_published(published):
                raise ValueError("the published metrics and verdicts have other types")
            return cls(step, last, Missed(skipped, over_budget), history, published)
        except Exception as error:  # a checkpoint may hold objects of any class
            raise ValueError(f"state: not that of a monitor: {type(error).__name__}: {error}") from error

    def of_model(self, layers: Sequence[Layer], step: int) -> tuple[Resumed | None, str]:
        """What belongs to a model, which may be another one than that of the checkpoint.

        The layers are compared by name and size. If at least half of those of the checkpoint are in the model, their
        history is kept, and what was published is left out, as it is about other layers too.

        Args:
            layers: every layer of the model, analysed or not.
            step: finished optimizer steps when the run resumes.

        Returns:
            What is kept, None if nothing is; what was done as a sentence, empty if everything is kept.
        """
        if not len(self.history):
            return self, ""
        sizes, found = _sizes(self.history[-1]), _sizes_of_model(layers)
        lost = [name for name, size in sizes.items() if name not in found or _differ(size, found[name])]
        new = [name for name in found if name not in sizes]
        if not lost and not new:
            return self, ""
        judged = [name for name, size in sizes.items() if size is not None] or list(sizes)
        left = len(set(judged).difference(lost))
        if 2 * left < len(judged):
            return None, (
                f"the checkpoint is of another model: {left} of its {len(judged)} layers are in this one with the same "
                "size; its history is left out, a new one begins"
            )
        says = [f"{quoted_list(names)} {what}" for names, what in ((lost, _LOST), (new, _NEW)) if names]
        history = self.history.of_layers(sizes.keys() - set(lost), before=step)
        kept = replace(self, last_snapshot=None, history=history, published=Published())
        return kept, (
            f"the layers of the checkpoint are not those of this model: {' and '.join(says)}; the history keeps the "
            "other layers, metrics and verdicts begin anew"
        )


def step_of(state: object) -> int:
    """The step of a state, 0 if there is none; :meth:`Resumed.from_state_dict` says what is wrong with it."""
    step = state.get("step") if isinstance(state, Mapping) else None
    return step if _is_step(step) else 0


def _sizes(report: Report) -> dict[str, Size | None]:
    """The size of each layer; None for one without matrices, or not analysed yet."""
    return {
        layer.name: None if layer.N is None or layer.M is None or layer.rf is None else (layer.rf, layer.N, layer.M)
        for layer in report.layers
    }


def _sizes_of_model(layers: Sequence[Layer]) -> dict[str, Size | None]:
    """The size of each layer as a report has it; None for one that is not analysed."""
    shapes = {layer.name: None if layer.spec is None else layer.spec.matrix_shape for layer in layers}
    return {name: shape and (shape[0], max(shape[1:]), min(shape[1:])) for name, shape in shapes.items()}


def _differ(size: Size | None, other: Size | None) -> bool:
    """Whether both are known and not the same."""
    return size is not None and other is not None and size != other


def _is_step(value: object) -> TypeGuard[int]:
    return is_count(value) and value >= 0


def _is_published(published: Published) -> bool:
    """Whether the values of a checkpoint have the types that training relies on."""
    metrics: Mapping[Any, Any] = published.metrics
    verdicts: Mapping[Any, Any] = published.verdicts
    return (
        (published.step is None or _is_step(published.step))
        and all(isinstance(key, str) and isinstance(value, float) for key, value in metrics.items())
        and all(isinstance(name, str) and isinstance(verdict, Mapping) for name, verdict in verdicts.items())
        and is_verdict(verdicts.get(VERDICT, {}))
        and all(are_ratios(verdicts.get(name, {})) for name in VERDICTS.values())
    )
