"""Why a layer has no fit, and what its weights are used for, as values from closed sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "skipped", "failed"]

Role = Literal["matrix", "convolution", "embedding", "recurrent", "adapter", "norm", "bias", "vector", "other"]
"""What the weights of a layer are used for; "recurrent" is one gate of a recurrent layer, "adapter" a low-rank adapter
beside the weights of a layer."""

SkipReason = Literal[
    "adapter",
    "analysis_failed",
    "bad_registration",
    "bad_shape",
    "computed",
    "empty",
    "equal_eigenvalues",
    "excluded",
    "left_out",
    "no_matrix",
    "no_rule",
    "non_finite",
    "not_built",
    "out_of_range",
    "quantized",
    "sharded",
    "tied",
    "too_few_eigenvalues",
    "too_many_rows",
    "unreadable",
    "unsupported_dtype",
    "unsupported_tensor",
    "waiting",
    "zero",
]

SENTENCES: dict[SkipReason, str] = {
    "adapter": "low-rank adapter: {detail}",
    "analysis_failed": "{detail}",
    "bad_registration": "the registered rule failed: {detail}",
    "bad_shape": "unexpected shape: {detail}",
    "computed": "computed weight: {detail}",
    "empty": "empty weights",
    "equal_eigenvalues": "no tail: {detail}",
    "excluded": "excluded by layers=",
    "left_out": "not read: {detail}",
    "no_matrix": "no matrix: {detail}",
    "no_rule": "no rule for {detail}",
    "non_finite": "non-finite weights",
    "not_built": "{detail}; will be retried at the next snapshot",
    "out_of_range": "the squared weights are outside the range of float64",
    "quantized": "quantised weights: {detail}",
    "sharded": "sharded weights: {detail}",
    "tied": "shares its weight with {detail}",
    "too_few_eigenvalues": "{detail}",
    "too_many_rows": "embedding with {detail}",
    "unreadable": "cannot be read: {detail}",
    "unsupported_dtype": "unsupported dtype {detail}",
    "unsupported_tensor": "unsupported tensor: {detail}",
    "waiting": "not analysed yet (waiting for its turn within the budget)",
    "zero": "all weights are zero",
}
"""The sentence that a user reads for each reason."""

_FAILURES = frozenset({"analysis_failed", "non_finite", "out_of_range"})


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a layer has no fit.

    Attributes:
        reason: one of a closed set.
        detail: what the sentence adds to the reason, such as a name, a dtype or an error message.

    Example:
        >>> skip = Skip("tied", "embed")
        >>> skip.status, skip.sentence
        ('skipped', 'shares its weight with embed')
    """

    reason: SkipReason
    detail: str = ""

    @property
    def status(self) -> Status:
        """The status of such a layer: "failed" if it should have had a fit, else "skipped"."""
        return "failed" if self.reason in _FAILURES else "skipped"

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return SENTENCES[self.reason].format(detail=self.detail)

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a :class:`~ww_callbacks.report.LayerReport` that say so."""
        return {"status": self.status, "skip_reason": self.reason, "reason": self.sentence}
