"""What our page reads from event files: reports, findings and signals, as tensors of a TensorBoard plugin."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.packed import pack
from ww_callbacks.outputs.tensorboard_protos import scalar_summary
from ww_callbacks.report import Finding, Report
from ww_callbacks.report.columns import is_count, is_number
from ww_callbacks.report.keys import PREFIX, is_prefix, with_prefix

PLUGIN = "ww_spectra"
"""Name of the plugin of TensorBoard that owns these tensors. Other dashboards leave them out."""
REPORT, FINDING, SIGNALS = (f"{PLUGIN}/{name}" for name in ("report", "finding", "signals"))
"""Tags of a monitor with the usual prefix."""

MAX_BYTES = 2**26
"""Signals that are larger when they are unpacked are refused."""
_DIGITS = 4


def tag_of(tag: str, prefix: str) -> str:
    """The tag of a monitor whose metrics have a prefix, so that several monitors can write into one file.

    Example:
        >>> tag_of(REPORT, "ww"), tag_of(REPORT, "actor")
        ('ww_spectra/report', 'ww_spectra/actor/report')
    """
    return tag if prefix == PREFIX else tag.replace(PLUGIN, f"{PLUGIN}/{prefix}", 1)


def prefix_in(tag: str) -> str | None:
    """The prefix of the monitor that wrote under a tag; None if the tag is none of ours.

    Example:
        >>> prefix_in("ww_spectra/report"), prefix_in("ww_spectra/actor/report"), prefix_in("loss")
        ('ww', 'actor', None)
    """
    plugin, _, rest = tag.partition("/")
    prefix = rest.rpartition("/")[0] or PREFIX
    return prefix if plugin == PLUGIN and is_prefix(prefix) else None


def report_summary(report: Report, metrics: Mapping[str, float], wall_time: float, prefix: str = PREFIX) -> Any:
    """A Summary protobuf with the report, see :func:`ww_callbacks.outputs.packed.pack`, and one value per metric.

    The report is the first value, so that a reader finds it without looking at all of them. Its own metrics have the
    usual prefix.

    Args:
        report: the results of one snapshot.
        metrics: its metrics.
        wall_time: when the snapshot was taken, in seconds since the epoch.
        prefix: of the metrics.
    """
    summary = scalar_summary(metrics)
    values = list(summary.value)
    del summary.value[:]
    packed = pack(report, with_prefix(metrics, PREFIX, now=prefix), wall_time)
    summary.value.extend([_value(tag_of(REPORT, prefix), packed), *values])
    return summary


def summary_of(value: Any) -> Any:
    """A Summary protobuf with one value."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[value])


def finding_value(finding: Finding, prefix: str = PREFIX) -> Any:
    """A finding that is raised or withdrawn as a value of a Summary protobuf."""
    return _value(tag_of(FINDING, prefix), json.dumps(finding.to_dict()).encode())


def signals_value(signals: Signals, prefix: str = PREFIX) -> Any:
    """What is known beside a report as a value of a Summary protobuf."""
    return _value(tag_of(SIGNALS, prefix), pack_signals(signals))


def pack_signals(signals: Signals) -> bytes:
    """Signals as bytes; of a verdict with one ratio for each layer, only the ratios.

    Args:
        signals: after a report.

    Example:
        >>> verdicts = {"learning_rate": {"ratios": [0.51234567], "layers": ["fc"]}}
        >>> unpack_signals(pack_signals(Signals(10, verdicts, {"val_loss": [(8, 0.5)]})), step=10)
        Signals(step=10, verdicts={'learning_rate': {'ratios': [0.5123]}}, recorded={'val_loss': [(8, 0.5)]})
    """
    verdicts = {
        name: {"ratios": [round(ratio, _DIGITS) for ratio in verdict["ratios"]]}
        if "ratios" in verdict
        else dict(verdict)
        for name, verdict in signals.verdicts.items()
    }
    recorded = {name: list(values) for name, values in signals.recorded.items()}
    values = {"verdicts": verdicts, "recorded": recorded}
    return zlib.compress(json.dumps(values, separators=(",", ":"), default=str).encode())


def unpack_signals(data: bytes, step: int) -> Signals:
    """The inverse of :func:`pack_signals`.

    Args:
        data: from a file.
        step: of the report.

    Raises:
        ValueError: the data are not those of signals.
    """
    try:
        values = json.loads(zlib.decompressobj().decompress(data, MAX_BYTES).decode())
        verdicts = {name: _verdict(verdict) for name, verdict in values["verdicts"].items()}
        recorded = {
            name: [(_step(at), float(value)) for at, value in pairs] for name, pairs in values["recorded"].items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"data: not those of signals: {type(error).__name__}: {error}") from error
    return Signals(step, verdicts, recorded)


def _step(value: object) -> int | None:
    if value is None or (isinstance(value, int) and is_count(value)):
        return value
    raise ValueError(f"a metric recorded at step {value!r}")


def _verdict(values: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict, with numbers as its ratios."""
    verdict = dict(values)
    if "ratios" in verdict and not all(map(is_number, verdict["ratios"])):
        raise ValueError("ratios that are no numbers")
    return verdict


def _value(tag: str, data: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN), data_class="DATA_CLASS_BLOB_SEQUENCE"
    )
    shape = {"dim": [{"size": 1}]}
    tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[data])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
