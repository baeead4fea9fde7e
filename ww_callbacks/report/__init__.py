"""Results: one layer, one snapshot of a model, the history of a run, a comparison of models."""

from ww_callbacks.report.comparison import Comparison
from ww_callbacks.report.correlation import Correlation
from ww_callbacks.report.finding import Confidence, Finding, FindingKind
from ww_callbacks.report.flow import CorrelationFlow, ScaleChange
from ww_callbacks.report.history import History
from ww_callbacks.report.layer import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    SCHEMA,
    BetterFit,
    Histogram,
    LayerReport,
    NullVerdict,
    TailWarning,
    TrapKind,
    TrapPlace,
)
from ww_callbacks.report.order import worst_first
from ww_callbacks.report.report import MIN_COUNTED, Report
from ww_callbacks.report.skip import Role, Skip, SkipReason, Status
from ww_callbacks.report.words import in_words

__all__ = [
    "COLUMNS",
    "MIN_COUNTED",
    "OPTIONAL_COLUMNS",
    "SCHEMA",
    "BetterFit",
    "Comparison",
    "Confidence",
    "Correlation",
    "CorrelationFlow",
    "Finding",
    "FindingKind",
    "Histogram",
    "History",
    "LayerReport",
    "NullVerdict",
    "Report",
    "Role",
    "ScaleChange",
    "Skip",
    "SkipReason",
    "Status",
    "TailWarning",
    "TrapKind",
    "TrapPlace",
    "in_words",
    "worst_first",
]
