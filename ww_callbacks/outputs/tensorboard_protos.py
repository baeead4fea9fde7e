"""Protocol buffers for TensorBoard, made with the tensorboard package alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from operator import mul
from typing import Any

from ww_callbacks.outputs.panels import Panels
from ww_callbacks.report import Histogram

MISSING = "TensorBoard output needs the tensorboard package: pip install ww_callbacks[tensorboard]"

_LAYOUT = {
    "alpha by layer": [r"ww_layer/alpha/.*"],
    "directions learned by layer (updates=True)": [r"ww_layer/learned_rank/.*"],
    "update norm by layer (updates=True)": [r"ww_layer/update_norm/.*"],
    "correlation traps": ["ww/num_traps", "ww/num_trap_layers"],
    "layers with findings": [r"ww/finding/.*"],
    "towards a stop": [r"ww/stop/.*"],
    "learning-rate ratios": [r"ww_layer/lr_ratio/.*"],
    "lag and missed snapshots": ["ww/lag_steps", "ww/skipped", "ww/over_budget"],
}
_BAND = ("alpha: median, smallest to largest", "ww/alpha_median", "ww/alpha_min", "ww/alpha_max")


def scalar_summary(metrics: Mapping[str, float]) -> Any:
    """A Summary protobuf with one simple value per metric.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.summary_pb2 import Summary
    except ImportError as error:
        raise ImportError(MISSING) from error
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()])


def panel_summary(panels: Panels) -> Any:
    """A Summary protobuf with images, texts and histograms."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, image=_image(png)) for tag, png in panels.images.items()]
    values += [_text(tag, text) for tag, text in panels.texts.items()]
    values += [Summary.Value(tag=tag, histo=_histogram(counts)) for tag, counts in panels.histograms.items()]
    return Summary(value=values)


def layout_summary() -> Any:
    """The layout of the "Custom scalars" tab: alpha by layer and as a band, traps, signals, lag.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.custom_scalar import layout_pb2, metadata
    except ImportError as error:
        raise ImportError(MISSING) from error

    band = layout_pb2.Chart(
        title=_BAND[0],
        margin=layout_pb2.MarginChartContent(
            series=[layout_pb2.MarginChartContent.Series(value=_BAND[1], lower=_BAND[2], upper=_BAND[3])]
        ),
    )
    lines = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))
        for title, tags in _LAYOUT.items()
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="ww_callbacks", chart=[band, *lines])])
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=_string(layout.SerializeToString()),
    )
    return Summary(value=[value])


def _image(png: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])
    return Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary.Value(tag=tag, metadata=metadata, tensor=_string(text.encode()))


def _string(value: bytes) -> Any:
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    return TensorProto(dtype="DT_STRING", string_val=[value])


def _histogram(counts: Histogram) -> Any:
    """Counts over log10 λ; the sums use the centres of the bins."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    width = (counts.high - counts.low) / len(counts.counts)
    edges = [counts.low + width * (place + 1) for place in range(len(counts.counts))]
    centres = [edge - width / 2 for edge in edges]
    return HistogramProto(
        min=counts.low,
        max=counts.high,
        num=sum(counts.counts),
        sum=sum(map(mul, counts.counts, centres)),
        sum_squares=sum(map(mul, counts.counts, (centre * centre for centre in centres))),
        bucket_limit=[counts.low, *edges],
        bucket=[0, *counts.counts],
    )
