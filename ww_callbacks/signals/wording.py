"""The sentences of findings: what it is, with layers and values, since when, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ww_callbacks.printable import shown_name, shown_text
from ww_callbacks.report.finding import FindingKind

MAX_NAMES = 3
"""Number of layers that a sentence names; it counts the others."""

Evidence = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of one kind.

    Attributes:
        one: what follows the name of one layer.
        many: what follows the names of several layers; empty if it is the same.
        more: explains it, as the rest of the sentence after the step.
        action: what to do, in one short sentence.
        value: the value of a layer, from its evidence.
    """

    one: str
    many: str = ""
    more: str = ""
    action: str = ""
    value: Callable[[Evidence], str] | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A layer as a sentence names it: with its evidence and the step since which it shows it."""

    name: str
    evidence: Evidence
    since: int | None


def text_of(kind: FindingKind, layers: Sequence[Named]) -> str:
    """The sentence of a finding.

    Args:
        kind: of the finding.
        layers: at least one, the worst first.

    Example:
        >>> text_of("non_finite", [Named("fc1", {}, 400), Named("fc2", {}, 400)])
        'fc1 and fc2 hold NaN or infinite weights since step 400.'
    """
    words = WORDS[kind]
    steps = {layer.since for layer in layers}
    value = words.value
    parts = [
        filter(
            None,
            [
                value(layer.evidence) if value is not None else "",
                f"since step {layer.since}" if len(steps) > 1 and layer.since is not None else "",
            ],
        )
        for layer in layers[:MAX_NAMES]
    ]
    names = [
        shown_name(layer.name) + (f" ({inside})" if (inside := ", ".join(each)) else "")
        for layer, each in zip(layers, parts, strict=False)
    ]
    what = words.one if len(layers) == 1 else words.many or words.one
    since = f" since step {layers[0].since}" if len(steps) == 1 and layers[0].since is not None else ""
    return f"{listed(names, len(layers))} {what}{since}{words.more}."


def action_of(kind: FindingKind) -> str:
    """What to do about a finding."""
    return WORDS[kind].action


def listed(names: Sequence[str], total: int) -> str:
    """Up to three names, and how many more there are.

    Args:
        names: at most three of them are listed.
        total: number of all.

    Example:
        >>> listed(["a", "b", "c"], 5), listed(["a", "b"], 2)
        ('a, b, c and 2 more layers', 'a and b')
    """
    named = list(names[:MAX_NAMES])
    if total > MAX_NAMES:
        left = total - MAX_NAMES
        return f"{', '.join(named)} and {left} more layer{'s' if left > 1 else ''}"
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _share(text: str, column: str) -> Callable[[Evidence], str]:
    """A share as a per cent in words, empty if it is not known."""
    return lambda evidence: text.format(_percent(evidence[column])) if column in evidence else ""


def _scale(evidence: Evidence) -> str:
    factor = evidence["times_others"]
    return f"{factor:.3g} times the others" if factor >= 1 else f"1/{1 / factor:.3g} of the others"


def _norms(evidence: Evidence) -> str:
    """The Frobenius norm at the start and now; the column is its square."""
    if "norm" not in evidence or "norm_at_start" not in evidence:
        return ""
    return f"norm {evidence['norm'] ** 0.5:.3g}, {evidence['norm_at_start'] ** 0.5:.3g} at the start"


def _moved(evidence: Evidence) -> str:
    moved = f"moves by {_percent(evidence['update_norm'])} of its norm" if "update_norm" in evidence else ""
    return ", ".join(filter(None, [moved, _norms(evidence)]))


def _noise(evidence: Evidence) -> str:
    if "learned_norm" in evidence:
        return f"{evidence['learned_norm']:.2g} of its norm changed, as noise does"
    return ""


def _alpha(evidence: Evidence) -> str:
    if not evidence.keys() >= {"alpha", "alpha_low", "alpha_high"}:
        return ""
    return f"{evidence['alpha']:.3g}, 95 %: {evidence['alpha_low']:.3g} to {evidence['alpha_high']:.3g}"


def _trap(evidence: Evidence) -> str:
    return f"{evidence['trap_size']:.2g} times the random edge"


def _ranks(evidence: Evidence) -> str:
    used = evidence["lora_used"]
    return f"rank {evidence['lora_rank']} is paid for, {used} direction{' is' if used == 1 else 's are'} used"


def _trap_words(cause: str, action: str) -> Wording:
    return Wording(
        "has a large correlation trap",
        "have large correlation traps",
        f": {cause}",
        action,
        value=_trap,
    )


_INPUTS = "Standardise the inputs, or lower the learning rate."
_HEALTHY_TOO = "Healthy networks have this too; if training goes badly, standardise the inputs or lower the rate."

WORDS: dict[FindingKind, Wording] = {
    "non_finite": Wording(
        "holds NaN or infinite weights",
        "hold NaN or infinite weights",
        action="Go back to a checkpoint before that, lower the learning rate or clip the gradients.",
    ),
    "rate_too_large": Wording(
        "is overwritten rather than trained",
        "are overwritten rather than trained",
        ", as with a learning rate that is far too large",
        "Lower the learning rate, to a tenth first.",
        _moved,
    ),
    "exploding": Wording(
        "has weights far larger than the other layers",
        "have weights far larger than the other layers",
        action="Check its initialisation and its learning rate; clip the gradients.",
        value=_scale,
    ),
    "collapsing": Wording(
        "has weights far smaller than the other layers",
        "have weights far smaller than the other layers",
        action="Check its initialisation, its weight decay and whether gradients reach it.",
        value=_scale,
    ),
    "lost_updates": Wording(
        "hardly changes",
        "hardly change",
        ": most elements keep their value, as updates smaller than the resolution of 16-bit weights do",
        "Keep the weights in float32, or raise the learning rate.",
        _share("{} of its elements unchanged", "update_unchanged"),
    ),
    "weight_decay": Wording(
        "shrinks",
        "shrink",
        ": weight decay is stronger than the gradients",
        "Lower the weight decay.",
        _norms,
    ),
    "rank_collapse": Wording(
        "has lost most of its directions",
        "have lost most of their directions",
        action="Lower the weight decay or the learning rate; check for dead units.",
        value=_share("{} of its start left", "rank_left"),
    ),
    "trap_mean": _trap_words("a mean of the weights that is not 0", _HEALTHY_TOO),
    "trap_rows": _trap_words("single large rows", "Look at these outputs (trap_places), and lower the learning rate."),
    "trap_columns": _trap_words("single large columns", "Look at these inputs (trap_places), and standardise them."),
    "trap_elements": _trap_words(
        "single large weights", "Look at these weights (trap_places), lower the learning rate or clip the gradients."
    ),
    "trap_kurtosis": _trap_words("weights with heavy tails or many zeros", _HEALTHY_TOO),
    "trap_mixed": _trap_words("several causes", _INPUTS),
    "rate_too_small": Wording(
        "has moved little and in a straight line",
        "have moved little and in a straight line",
        ", as with a learning rate that is far too small",
        "Raise the learning rate, tenfold first.",
        _share("{} of its norm", "learned_norm"),
    ),
    "failed": Wording(
        "could not be analysed",
        action="Look at the reason; the other layers are not affected.",
        value=lambda evidence: shown_text(str(evidence["reason"])),
    ),
    "frozen": Wording(
        "has not changed",
        "have not changed",
        ": frozen, unused, without a gradient, or with updates below the resolution of the weights",
        "If this is not on purpose, check requires_grad and that the loss depends on these weights.",
    ),
    "decay_only": Wording(
        "only shrinks",
        "only shrink",
        ", in proportion to the weights: weight decay acts and no gradient does",
        "Check that the loss depends on it and that its gradient is not cut.",
        _share("by {} since the result before", "norm_fall"),
    ),
    "one_direction": Wording(
        "moves in one direction only",
        "move in one direction only",
        action="Check the size and the variety of the batches.",
        value=_share("{} of the last change", "update_sharpness"),
    ),
    "moves_most": Wording(
        "moves at least 10 times more than the other layers",
        "move at least 10 times more than the other layers",
        action="Check its learning rate and its initialisation.",
        value=lambda evidence: (
            f"{evidence['update_norm']:.2g} of its norm, the median of the others is {evidence['median_of_others']:.2g}"
        ),
    ),
    "not_learning": Wording(
        "looks untrained",
        "look untrained",
        ": random signs could give the same spectrum",
        "This is normal early on; later, the learning rate may be too small or the layer unused.",
        _noise,
    ),
    "under_trained": Wording(
        "looks under-trained",
        "look under-trained",
        ": alpha is above 6",
        "More steps or a larger learning rate may help; our experiments have not shown that it does.",
        _alpha,
    ),
    "over_trained": Wording(
        "looks over-trained",
        "look over-trained",
        ": alpha is below 2, including its confidence interval",
        "Healthy networks show this too: let the validation loss decide.",
        _alpha,
    ),
    "unused_rank": Wording(
        "uses at most half of its rank",
        "use at most half of their rank",
        action="Lower the rank: without the other directions, the change differs by at most a tenth of its norm.",
        value=_ranks,
    ),
    "plateau": Wording(
        "has an alpha that no longer falls",
        "have a mean alpha that no longer falls",
        ": weak evidence that there is nothing more to gain",
        "End the training if the validation loss agrees.",
        lambda evidence: f"alpha {evidence['alpha']:.3g}" if "alpha" in evidence else "",
    ),
}
