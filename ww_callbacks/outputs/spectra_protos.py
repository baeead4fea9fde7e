"""What our page reads from event files: reports, findings and verdicts, as tensors of a TensorBoard plugin."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from ww_callbacks.outputs.packed import pack
from ww_callbacks.outputs.tensorboard_protos import scalar_summary
from ww_callbacks.report import Finding, Report

PLUGIN = "ww_spectra"
"""Name of the plugin of TensorBoard that owns these tensors. Other dashboards leave them out."""
REPORT, FINDING, VERDICTS = (f"{PLUGIN}/{name}" for name in ("report", "finding", "verdicts"))
"""Tags."""

MAX_BYTES = 2**26
"""Verdicts that are larger when they are unpacked are refused."""
_DIGITS = 4


def report_summary(report: Report, metrics: Mapping[str, float], wall_time: float) -> Any:
    """A Summary protobuf with the report, see :func:`ww_callbacks.outputs.packed.pack`, and one value per metric.

    The report is the first value, so that a reader finds it without looking at all of them.
    """
    summary = scalar_summary(metrics)
    values = list(summary.value)
    del summary.value[:]
    summary.value.extend([_value(REPORT, pack(report, metrics, wall_time)), *values])
    return summary


def summary_of(value: Any) -> Any:
    """A Summary protobuf with one value."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[value])


def finding_value(finding: Finding) -> Any:
    """A finding that is raised or withdrawn as a value of a Summary protobuf."""
    return _value(FINDING, json.dumps(finding.to_dict()).encode())


def verdicts_value(verdicts: Mapping[str, Mapping[str, Any]]) -> Any:
    """The verdicts of the signals as a value of a Summary protobuf."""
    return _value(VERDICTS, pack_verdicts(verdicts))


def pack_verdicts(verdicts: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Verdicts as bytes; of those with one ratio for each layer, only the ratios.

    Args:
        verdicts: by the name of their signal.

    Example:
        >>> unpack_verdicts(pack_verdicts({"learning_rate": {"ratios": [0.51234567], "layers": ["fc"]}}))
        {'learning_rate': {'ratios': [0.5123]}}
    """
    short = {
        name: {"ratios": [round(ratio, _DIGITS) for ratio in verdict["ratios"]]} if "ratios" in verdict else dict(verdict)
        for name, verdict in verdicts.items()
    }
    return zlib.compress(json.dumps(short, separators=(",", ":"), default=str).encode())


def unpack_verdicts(data: bytes) -> dict[str, dict[str, Any]]:
    """The inverse of :func:`pack_verdicts`.

    Raises:
        ValueError: the data are not verdicts.
    """
    try:
        inflater = zlib.decompressobj()
        verdicts = json.loads(inflater.decompress(data, MAX_BYTES).decode())
    except (RecursionError, zlib.error) as error:
        raise ValueError(f"data: not packed verdicts: {error}") from error
    if not isinstance(verdicts, dict) or not all(isinstance(each, dict) for each in verdicts.values()):
        raise ValueError("data: not packed verdicts")
    return verdicts


def _value(tag: str, data: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=PLUGIN), data_class="DATA_CLASS_BLOB_SEQUENCE"
    )
    shape = {"dim": [{"size": 1}]}
    tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[data])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
