"""The detectors of findings: pure functions that name the layers which show something now, with the evidence.

What holds is decided from several results in a row by :mod:`ww_callbacks.signals.findings`; the sentences are in
:mod:`ww_callbacks.signals.wording`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ww_callbacks.report import LayerReport, TrapKind
from ww_callbacks.report.finding import Confidence, FindingKind, Value
from ww_callbacks.signals.courses import Seen
from ww_callbacks.signals.rules import is_trapped
from ww_callbacks.signals.scales import DENSE, MIN_COMPARED, finite, gain_of, medians_of_others

LEVEL = 0.001
"""A layer has learned if the p-value of its change is at most this."""

MIN_TESTED = 20
"""Smallest number of eigenvalues of a layer of which it is said that it changed as noise does. In smaller ones, such as
a last layer with ten classes, the test has little power."""

LOST = 0.7
"""Share of unchanged elements from which updates are said to be lost."""

LOST_STEPS: dict[str, float] = {"bfloat16": 2.0**-5, "float16": 2.0**-8}
"""Dtypes in which updates get lost. The elements that did change moved by at most this share of the weights: a few
steps of the dtype, which are 2⁻⁷ to 2⁻⁸ and 2⁻¹⁰ to 2⁻¹¹ of a number. Elements without a gradient leave larger changes
to the others."""

PROPORTIONAL = 0.01
"""A change is proportional to the weights if its norm exceeds the fall of their norm by at most this share."""

UNTURNED = 0.001
"""Without update norms, a change is proportional to the weights if stable rank and entropy change by at most this share
of the change of log norm."""

LEAST_DECAY = 1e-5
"""Smallest fall of the norm, as a share of it, that is looked at; smaller ones may be rounding."""

LARGE_STEP = 0.1
"""The rate is far too large if layers move by this share of their norm times the square root of the number of steps, or
by ``REPLACED``, from one result to the next."""

REPLACED = 0.5
"""Share of the norm from which an update is always too large."""

WHOLLY, AT_MOST = 0.9, 50
"""Share of the norm from which a single update over at most so many steps is enough."""

BLOWN_UP = 30.0
"""The rate is far too large if layers have this many times the norm of their start, and the gain ``LARGE_GAIN``."""

LARGE_GAIN = 1.5
"""Root mean square of the outputs of a layer for inputs of root mean square 1, far above that of an initialisation."""

MOST = 0.5
"""A rate that is too large shows in at least this share of the layers."""

STRAIGHT = 0.77
"""The rate is too small if the way since the start is at least this share of the sum of the updates, in all layers …"""

STEADY = 0.5
"""… while the last update is at least this share of the mean one, since healthy trainings slow down …"""

SHORT = 0.3
"""… and the way is at most this share of the norm …"""

MIN_PATH = 10
"""… after at least this many results …"""

MIN_STEPS = 200
"""… and steps."""

GROWTH = 4.0
"""A layer explodes (or collapses) if its norm grew by this factor more (or less) than that of the others …"""

BESIDE = 2.0
"""… its scale is this factor above (or below) the median of the others …"""

STILL_CHANGING = 0.01
"""… and its norm still grew (or fell) by this share since the result before."""

START_LARGE, START_SMALL = 8.0, 5.0
"""Factor above (or below) the median of the others from which the scale of a first snapshot is out of line …"""

STILL_OUT = 3.0
"""… as long as it is by this factor."""

DECAYED = 0.7
"""Weight decay wins if norms fell below this share of those of the first result …"""

MOST_DECAYED = 0.5
"""… in this share of the layers."""

RANK_LEFT = 0.25
"""The rank has collapsed if the entropy of the spectrum, or its rank, is at most this share of that at the start."""

MIN_RANKED = 10
"""Smallest side of a layer whose rank can collapse."""

ONE_DIRECTION = 0.99
"""Share of the largest direction from which a change is said to have one direction only."""

MIN_SIDE = 3
"""Smallest side of a layer of which it is said that it moves in one direction only."""

FAST = 10.0
"""A layer moves much more than the others if its update norm is this many times their median."""

MIN_OTHERS = 3
"""Smallest number of other layers with which the update norm of a layer is compared."""

HALF = 0.5
"""A low-rank adapter is said to use few directions if these are at most this share of its rank."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A layer that shows something now.

    Attributes:
        name: of the layer.
        evidence: column → value.
        severity: the layer with the largest one is named first.
        since: first step of it, if the report says so; None for that of the first result that shows it.
        kind: if it is not that of the detector.
        is_enough: whether this result alone raises the finding.
    """

    name: str
    evidence: dict[str, Value]
    severity: float = 0.0
    since: int | None = None
    kind: FindingKind | None = None
    is_enough: bool = False


def non_finite(seen: Seen) -> list[Shown]:
    """Layers with NaN or infinite weights."""
    return [
        Shown(layer.name, {"skip_reason": "non_finite"}) for layer in seen.fresh if layer.skip_reason == "non_finite"
    ]


def failed(seen: Seen) -> list[Shown]:
    """Layers whose analysis failed for another reason."""
    return [
        Shown(layer.name, {"skip_reason": str(layer.skip_reason or ""), "reason": layer.reason})
        for layer in seen.fresh
        if layer.status == "failed" and layer.skip_reason != "non_finite"
    ]


def frozen(seen: Seen) -> list[Shown]:
    """Layers whose weights are the same as at an earlier result.

    The first result of a resumed run does not say so. There, a layer counts that had not changed before and has the
    same norms.
    """
    found = []
    for layer in seen.fresh:
        since, before = layer.unchanged_since, seen.before.get(layer.name)
        if since is None and before is not None and before.unchanged_since is not None:
            since = before.unchanged_since if _has_same_norms(layer, before) else None
        if since is not None and layer.status != "failed":
            found.append(Shown(layer.name, {"unchanged_since": since}, since=since))
    return found


def _has_same_norms(layer: LayerReport, before: LayerReport) -> bool:
    pairs = (layer.norm, before.norm), (layer.spectral_norm, before.spectral_norm)
    return all(now is not None and then is not None and math.isclose(now, then) for now, then in pairs)


def decay_only(seen: Seen) -> list[Shown]:
    """Layers whose last change is proportional to their weights.

    Since ``‖ΔW‖ ≥ ‖W_before‖ - ‖W‖``, with equality if ΔW is antiparallel to W, two norms tell. Without update norms,
    stable rank and entropy tell, which a change of scale leaves as they are.
    """
    found = []
    for layer in seen.fresh:
        fall = decay_of(layer, seen)
        if fall is not None:
            found.append(Shown(layer.name, _columns(layer, "update_norm") | {"norm_fall": fall}, fall))
    return found


def decay_of(layer: LayerReport, seen: Seen) -> float | None:
    """The fall of the norm ‖W‖ as a share of it, if the last change is proportional to the weights; otherwise None."""
    fall, before = seen.falls.get(layer.name), seen.before.get(layer.name)
    if before is None or fall is None or fall < LEAST_DECAY:
        return None
    update = finite(layer.update_norm)
    if update is not None and layer.update_since in (None, before.step):
        return fall if update <= (1 + PROPORTIONAL) * fall else None
    changes = [
        abs(now - then)
        for now, then in ((_log(layer.stable_rank), _log(before.stable_rank)), (layer.entropy, before.entropy))
        if now is not None and then is not None
    ]
    return fall if len(changes) == 2 and max(changes) <= UNTURNED * 2 * math.log1p(fall) else None


def lost_updates(seen: Seen) -> list[Shown]:
    """Layers of which most elements keep their value, while the others move by single steps of the precision.

    A learning rate that has decayed to almost nothing has the same effect, on purpose.
    """
    if seen.has_decayed:
        return []
    found = []
    for layer in seen.fresh:
        unchanged, update = finite(layer.update_unchanged), finite(layer.update_norm)
        if layer.unchanged_since is not None or layer.role == "embedding" or unchanged is None:
            continue
        limit = LOST_STEPS.get(layer.dtype or "")
        if limit is None or not LOST <= unchanged < 1:  # all of them: the same as the baseline
            continue
        if update is None or update <= limit * math.sqrt(1 - unchanged):
            found.append(Shown(layer.name, _columns(layer, "update_unchanged", "update_norm"), unchanged))
    return found


def not_learning(seen: Seen) -> list[Shown]:
    """Layers that changed as noise does since the first snapshot or, if that is unknown, still have no tail."""
    found = []
    for layer in seen.fresh:
        pvalue = layer.learned_pvalue
        if pvalue is None:
            is_noise = layer.warning == "no tail" and layer.step != 0
        else:
            is_noise = pvalue > LEVEL and bool(layer.learned_norm) and (layer.num_evals or 0) >= MIN_TESTED
        if not is_noise or layer.unchanged_since is not None or decay_of(layer, seen) is not None:
            continue
        if pvalue is None:
            found.append(Shown(layer.name, _columns(layer, "null_pvalue") | {"warning": "no tail"}))
        else:
            found.append(Shown(layer.name, _columns(layer, "learned_norm", "learned_pvalue"), pvalue))
    return found


def rate_too_large(seen: Seen) -> list[Shown]:
    """Layers that are replaced from one result to the next, or that have blown up, if at least half of them are."""
    judged = [layer for layer in seen.report.layers if layer.role != "adapter" and finite(layer.norm)]
    found = {layer.name: size for layer in judged if (size := _excess(layer, seen.growths.get(layer.name))) >= 1}
    least = max(MOST * len(judged), 1)
    if len(found) < least:
        return []
    is_enough = sum(map(_is_replaced, judged)) >= least
    return [
        Shown(
            layer.name,
            _columns(layer, "update_norm", "norm") | _at_start(seen, layer),
            found[layer.name],
            is_enough=is_enough,
        )
        for layer in seen.fresh
        if layer.name in found
    ]


def _is_replaced(layer: LayerReport) -> bool:
    """Whether a few steps replaced the weights."""
    update, steps = finite(layer.update_norm), _steps_of(layer)
    return update is not None and steps is not None and steps <= AT_MOST and update >= WHOLLY


def _steps_of(layer: LayerReport) -> int | None:
    """Number of steps of the last change; None if it is not known."""
    if layer.update_since is None or layer.step is None:
        return None
    return max(layer.step - layer.update_since, 1)


_LOG_BLOWN_UP = math.log10(BLOWN_UP)


def _excess(layer: LayerReport, growth: float | None) -> float:
    """How many times a layer exceeds what a rate may do; below 1 if it does not."""
    excess = 0.0
    update = finite(layer.update_norm)
    steps = _steps_of(layer)
    if update is not None and steps is not None:
        excess = update / min(REPLACED, LARGE_STEP * math.sqrt(steps))
    gain = gain_of(layer) if growth is not None and growth >= _LOG_BLOWN_UP else None
    if growth is not None and gain is not None:
        excess = max(excess, min(10 ** min(growth, 9) / BLOWN_UP, 10 ** min(gain[0], 9) / LARGE_GAIN))
    return excess


def rate_too_small(seen: Seen) -> list[Shown]:
    """All layers, if all move little and in a straight line; needs update norms."""
    moving = [layer for layer in seen.fresh if layer.learned_norm is not None and layer.unchanged_since is None]
    found = []
    for layer in moving:
        path = seen.paths.get(layer.name)
        if path is None or path.results < MIN_PATH or path.steps < MIN_STEPS or not 0 < path.learned <= SHORT:
            return []
        if not 0 < STRAIGHT * path.length <= path.learned or path.last < STEADY * path.length / path.results:
            return []
        straight = path.learned / path.length
        found.append(Shown(layer.name, _columns(layer, "learned_norm") | {"straightness": straight}, 1 - path.learned))
    return found


def exploding(seen: Seen) -> list[Shown]:
    """Layers that grew unlike the others, or whose scale is far above theirs since the first snapshot."""
    return _out_of_line(seen, +1)


def collapsing(seen: Seen) -> list[Shown]:
    """Layers that shrank unlike the others, or whose scale is far below theirs since the first snapshot.

    Of a last layer only the first counts, since it is often initialised with small weights on purpose.
    """
    return _out_of_line(seen, -1)


_LOG_BESIDE = math.log10(BESIDE)


def _out_of_line(seen: Seen, sign: int) -> list[Shown]:
    """Layers that grew (sign 1) or shrank (-1) unlike the others, or that are out of line since the first snapshot."""
    now, start = seen.scales, seen.starts
    growths, usual = seen.growths, medians_of_others(seen.growths, MIN_COMPARED)
    last = next((layer.name for layer in reversed(seen.report.layers) if layer.role in DENSE and layer.M), None)
    found = []
    for layer in seen.fresh:
        name = layer.name
        beside = sign * now.get(name, 0.0)
        if beside < _LOG_BESIDE and layer.role != "embedding":
            continue
        more = sign * (growths[name] - usual[name]) if name in usual else 0.0
        is_incomparable = layer.role == "embedding" and sign > 0
        is_small_on_purpose = name == last and sign < 0
        is_going_on = -sign * seen.falls.get(name, 0.0) >= STILL_CHANGING
        if more >= math.log10(GROWTH) and is_going_on and (beside >= _LOG_BESIDE or is_incomparable):
            found.append(Shown(name, _scales(seen, layer, sign * more), more))
        elif (
            sign * start.get(name, 0.0) >= math.log10(START_LARGE if sign > 0 else START_SMALL)
            and beside >= math.log10(STILL_OUT)
            and not is_small_on_purpose
        ):
            evidence = _scales(seen, layer, sign * beside)
            found.append(Shown(name, evidence, beside, seen.first[name].step, is_enough=True))
    return found


def _scales(seen: Seen, layer: LayerReport, factor: float) -> dict[str, Value]:
    return _columns(layer, "norm") | _at_start(seen, layer) | {"times_others": 10 ** max(min(factor, 99.0), -99.0)}


def weight_decay(seen: Seen) -> list[Shown]:
    """Layers whose norm is far below that of their first result, if at least half of the layers are."""
    least = max(MOST_DECAYED * len(seen.growths), 1)
    found = {name: growth for name, growth in seen.growths.items() if growth <= math.log10(DECAYED)}
    if len(found) < least:
        return []
    return [
        Shown(layer.name, _columns(layer, "norm") | _at_start(seen, layer), -found[layer.name])
        for layer in seen.fresh
        if layer.name in found
    ]


def rank_collapse(seen: Seen) -> list[Shown]:
    """Layers whose spectrum has lost most of the directions that it had at the first result."""
    found = []
    for layer in seen.fresh:
        first = seen.first.get(layer.name)
        if first is None or first is layer or (layer.M or 0) < MIN_RANKED or layer.role == "adapter":
            continue
        left = min(_share(layer.entropy, first.entropy), _share(layer.matrix_rank, first.matrix_rank))
        if left <= RANK_LEFT:
            evidence = _columns(layer, "entropy", "matrix_rank", "stable_rank") | {"rank_left": left}
            found.append(Shown(layer.name, evidence, 1 - left))
    return found


def _share(now: float | None, then: float | None) -> float:
    """How much of a number is left; 1 if that is not known."""
    now, then = finite(now), finite(then)
    return 1.0 if now is None or not then else now / then


_TRAPS: dict[TrapKind, FindingKind] = {
    "mean": "trap_mean",
    "rows": "trap_rows",
    "columns": "trap_columns",
    "elements": "trap_elements",
    "kurtosis": "trap_kurtosis",
    "mixed": "trap_mixed",
}


def traps(seen: Seen) -> list[Shown]:
    """Layers with large correlation traps, larger than at the first result of the layer."""
    found = []
    for layer in seen.fresh:
        first = seen.first.get(layer.name)
        if first is layer or layer.trap_kind is None:
            continue
        if not is_trapped(layer, first or LayerReport(name=layer.name, kind=layer.kind)):
            continue
        evidence = _columns(layer, "num_traps", "trap_size", "ww_softrank", "trap_pvalue")
        found.append(Shown(layer.name, evidence, layer.trap_size or 0.0, kind=_TRAPS[layer.trap_kind]))
    return found


def one_direction(seen: Seen) -> list[Shown]:
    """Layers whose last change, and whose change since the start, has one direction.

    The first change of a run says little: with few samples per step, each step has few directions. Layers with two
    outputs have no other direction.
    """
    return [
        Shown(layer.name, _columns(layer, "update_sharpness", "learned_sharpness"), layer.update_sharpness or 0.0)
        for layer in seen.fresh
        if layer.role != "adapter" and _has_one_direction(layer)
    ]


def _has_one_direction(layer: LayerReport) -> bool:
    if layer.unchanged_since is not None or (layer.M or 0) < MIN_SIDE:
        return False
    if layer.learned_since is None:  # a finished model
        return (layer.update_sharpness or 0.0) >= ONE_DIRECTION
    if layer.learned_since == layer.update_since:
        return False
    return min(layer.update_sharpness or 0.0, layer.learned_sharpness or 0.0) >= ONE_DIRECTION


def moves_most(seen: Seen) -> list[Shown]:
    """Layers that move much more than the others, relative to their norm."""
    norms = {
        layer.name: layer.update_norm
        for layer in seen.report.layers
        if layer.role != "adapter" and layer.update_norm and finite(layer.update_norm)
    }
    usual = medians_of_others(norms, MIN_OTHERS)
    return [
        Shown(
            layer.name,
            _columns(layer, "update_norm") | {"median_of_others": usual[layer.name]},
            norms[layer.name] / usual[layer.name],
        )
        for layer in seen.fresh
        if layer.name in usual and norms[layer.name] >= FAST * usual[layer.name]
    ]


def under_trained(seen: Seen) -> list[Shown]:
    """Layers with an alpha above 6."""
    return _warned(seen, "under-trained", +1)


def over_trained(seen: Seen) -> list[Shown]:
    """Layers with an alpha below 2."""
    return _warned(seen, "over-trained", -1)


def _warned(seen: Seen, warning: str, sign: int) -> list[Shown]:
    """What a spectrum shows that was there before the run is no fault of the training."""
    return [
        Shown(layer.name, _columns(layer, "alpha", "alpha_low", "alpha_high"), sign * (layer.alpha or 0.0))
        for layer in seen.fresh
        if layer.warning == warning and (layer.learned_pvalue is None or layer.learned_pvalue <= LEVEL)
    ]


def unused_rank(seen: Seen) -> list[Shown]:
    """Low-rank adapters that use at most half of their rank."""
    return [
        Shown(
            layer.name, {"lora_rank": layer.lora_rank, "lora_used": layer.lora_used}, layer.lora_rank / layer.lora_used
        )
        for layer in seen.fresh
        if layer.lora_rank and layer.lora_used and layer.lora_used <= HALF * layer.lora_rank
    ]


def plateau(seen: Seen) -> list[Shown]:
    """The counted layers, if the rule "plateau" is at its full score."""
    if not seen.is_plateau:
        return []
    return [Shown(layer.name, _columns(layer, "alpha")) for layer in seen.report.layers if layer.counted]


@dataclass(frozen=True, slots=True)
class Detector:
    """A detector with the number of results that it needs.

    Attributes:
        kind: of its findings.
        shows: the layers that show it now.
        patience: results in a row of a layer that raise a finding, and that withdraw it.
        confidence: of its findings.
        judges: whether a result of a layer that is not shown says that it is not so. One that lacks the columns, such
            as the first of a resumed run, says nothing.
    """

    kind: FindingKind
    shows: Callable[[Seen], list[Shown]] = field(repr=False)
    patience: int
    confidence: Confidence
    judges: Callable[[Seen, LayerReport], bool] = field(default=lambda seen, layer: True, repr=False)


def _has_updates(seen: Seen, layer: LayerReport) -> bool:
    return layer.update_norm is not None


def _has_path(seen: Seen, layer: LayerReport) -> bool:
    path = seen.paths.get(layer.name)
    return path is not None and path.results >= MIN_PATH


DETECTORS: tuple[Detector, ...] = (
    Detector("non_finite", non_finite, 1, "certain"),
    Detector("rate_too_large", rate_too_large, 5, "likely"),
    Detector("exploding", exploding, 2, "likely"),
    Detector("collapsing", collapsing, 2, "likely"),
    Detector("lost_updates", lost_updates, 2, "likely", _has_updates),
    Detector("weight_decay", weight_decay, 3, "likely"),
    Detector("rank_collapse", rank_collapse, 3, "likely"),
    Detector("trap_mean", traps, 3, "likely"),  # and the other kinds of traps
    Detector("rate_too_small", rate_too_small, 3, "likely", _has_path),
    Detector("failed", failed, 1, "certain"),
    Detector("frozen", frozen, 1, "certain"),
    Detector("decay_only", decay_only, 2, "likely"),
    Detector("one_direction", one_direction, 2, "possible", _has_updates),
    Detector("moves_most", moves_most, 2, "possible", _has_updates),
    Detector("not_learning", not_learning, 3, "likely"),
    Detector("under_trained", under_trained, 3, "possible"),
    Detector("over_trained", over_trained, 3, "possible"),
    Detector("unused_rank", unused_rank, 3, "likely"),
    Detector("plateau", plateau, 1, "possible"),  # the rule has a patience of its own
)


def _log(value: float | None) -> float | None:
    value = finite(value)
    return math.log(value) if value is not None and value > 0 else None


def _at_start(seen: Seen, layer: LayerReport) -> dict[str, Value]:
    first = seen.first.get(layer.name)
    start = finite(first.norm) if first is not None else None
    return {} if start is None else {"norm_at_start": start}


def _columns(layer: LayerReport, *names: str) -> dict[str, Value]:
    """The columns with numbers that have a value."""
    values = {name: getattr(layer, name) for name in names}
    return {name: value for name, value in values.items() if finite(value) is not None}
