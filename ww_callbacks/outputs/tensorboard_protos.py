"""Protocol buffers for TensorBoard, made with the tensorboard package alone."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any

from ww_callbacks.outputs.charts import Chart
from ww_callbacks.outputs.panels import Panels
from ww_callbacks.report import Histogram

MISSING = "TensorBoard output needs the tensorboard package: pip install ww_callbacks[tensorboard]"


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


def layout_summary(charts: Sequence[Chart]) -> Any:
    """The layout of the tab "Custom scalars". TensorBoard takes the latest one of a run."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    category = layout_pb2.Category(title="ww_callbacks", chart=[_chart(chart, layout_pb2) for chart in charts])
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=_string(layout_pb2.Layout(category=[category]).SerializeToString()),
    )
    return Summary(value=[value])


def _chart(chart: Chart, layout_pb2: Any) -> Any:
    if not chart.is_band:
        return layout_pb2.Chart(title=chart.title, multiline=layout_pb2.MultilineChartContent(tag=chart.tags))
    middle, low, high = chart.tags
    series = layout_pb2.MarginChartContent.Series(value=middle, lower=low, upper=high)
    return layout_pb2.Chart(title=chart.title, margin=layout_pb2.MarginChartContent(series=[series]))


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
