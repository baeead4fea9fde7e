import itertools
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from matplotlib.text import Text

import ww_callbacks as ww
from ww_callbacks.outputs import figures
from ww_callbacks.report import Histogram, History, LayerReport, Report


def tailed(rng, rows=100, columns=60, rank=20):
    """Noise with directions whose sizes fall as a power law: a reliable tail."""
    left, right = (np.linalg.qr(rng.standard_normal((side, rank)))[0] for side in (rows, columns))
    return rng.standard_normal((rows, columns)) + 15 * (left * np.linspace(1 / rank, 1, rank) ** -0.5) @ right.T


def network(scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    spike = np.outer(rng.standard_normal(120), rng.standard_normal(80)) / 20
    return {
        "first": scale * rng.standard_normal((120, 80)) + spike,
        "second": tailed(rng),
        "head": rng.standard_normal((60, 10)),
    }


@pytest.fixture(scope="module")
def report():
    return ww.analyze(network())


@pytest.fixture(scope="module")
def history():
    reports = (ww.analyze(network(scale)) for scale in (1.0, 0.8, 0.5))
    return History(Report(each.layers, step) for each, step in zip(reports, (0, 100, 300), strict=True))


def styles(ax):
    """Line style by label, of everything in the legend."""
    handles, labels = ax.get_legend_handles_labels()
    return {label: handle.get_linestyle() for label, handle in zip(labels, handles, strict=True)}


def test_esd_shows_layer_control_edge_and_fit_told_apart_by_line_style(report):
    ax = figures.draw_esd(report["first"])
    shown = styles(ax)
    assert list(shown) == ["this layer", "shuffled", "largest shuffled λ", "power-law fit, no tail"]
    assert list(styles(figures.draw_esd(report["second"])))[-1] == "power-law fit"
    assert len(set(map(str, shown.values()))) == 4
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert "λ" in ax.get_xlabel()
    assert "eigenvalues" in ax.get_ylabel()
    line = next(line for line in ax.lines if line.get_label() == "largest shuffled λ")
    assert line.get_xdata()[0] == report["first"].max_rand_eval


def test_the_fit_expects_as_many_eigenvalues_as_the_tail_has(report):
    layer = report["second"]
    ax = figures.draw_esd(layer)
    fit = next(line for line in ax.lines if line.get_label() == "power-law fit")
    x, expected = (np.asarray(values) for values in fit.get_data())
    edges = np.linspace(layer.histogram.low, layer.histogram.high, len(layer.histogram.counts) + 1)
    logs = np.log10(x)
    total = np.sum((expected[1:] + expected[:-1]) / 2 * np.diff(logs)) / (edges[1] - edges[0])
    beyond = (layer.xmax / layer.xmin) ** (1 - layer.alpha)
    assert total == pytest.approx(layer.num_pl_spikes * (1 - beyond), rel=0.01)
    slope = np.diff(np.log(expected)) / np.diff(np.log(x))
    assert slope == pytest.approx(np.full(len(slope), 1 - layer.alpha))


def test_a_truncated_fit_is_drawn_with_its_cut_off():
    layer = ww.analyze(network(), fit="TPL")["second"]
    fit = next(line for line in figures.draw_esd(layer).lines if "fit" in line.get_label())
    slope = np.diff(np.log(fit.get_ydata())) / np.diff(np.log(fit.get_xdata()))
    assert fit.get_label() == "truncated power-law fit"
    assert slope[-1] - slope[0] == pytest.approx(-layer.Lambda * (layer.xmax - layer.xmin), rel=0.1)


def test_a_layer_without_a_spectrum_is_an_error_that_says_why():
    with pytest.raises(ValueError, match=r"'bias'.*no matrix"):
        figures.draw_esd(LayerReport(name="bias", kind="x", status="skipped", reason="no matrix"))
    with pytest.raises(ValueError, match="latest report"):
        figures.draw_esd(LayerReport(name="fc", kind="x"))


def test_a_layer_without_control_and_fit_is_drawn_too():
    bare = LayerReport(name="fc", kind="x", histogram=Histogram(-1.0, 1.0, (0, 3, 1)))
    assert list(styles(figures.draw_esd(bare))) == ["this layer"]


def test_flow_and_histogram_hold_the_fitted_layers_and_their_controls(report):
    flow = figures.draw_correlation_flow(report)
    drawn = {line.get_label(): list(line.get_ydata()) for line in flow.lines}
    (sure, *_), *_ = flow.containers  # the first layer has no reliable tail, the second one does
    assert (drawn["no reliable tail"], list(sure.get_ydata())) == ([report["first"].alpha], [report["second"].alpha])
    assert drawn["shuffled"] == [report["first"].rand_alpha, report["second"].rand_alpha]
    assert [tick.get_text() for tick in flow.get_xticklabels()] == ["first", "second"]
    bars = figures.draw_alpha_histogram(report)
    assert sum(patch.get_height() for patch in bars.patches if hasattr(patch, "get_height")) == 2
    assert set(styles_of_patches(bars)) >= {"layers (1)", "no reliable tail (1)", "shuffled"}


def styles_of_patches(ax):
    return ax.get_legend_handles_labels()[1]


def test_flows_of_several_models_differ_in_style(report):
    ax = figures.draw_correlation_flows({f"model {i}": report for i in range(5)})
    lines = [line for line in ax.lines if line.get_label().startswith("model")]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 5
    assert all((line.get_xdata()[0], line.get_xdata()[-1]) == (0, 1) for line in lines)


def test_history_is_the_median_of_the_counted_layers_in_its_band(history):
    ax = figures.draw_history(history)
    alpha = np.array([[report[name].alpha for report in history] for name in ("first", "second")])
    assert ax.lines[0].get_ydata() == pytest.approx(np.median(alpha, axis=0))
    assert list(ax.lines[0].get_xdata()) == [0, 100, 300]
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((alpha.min(), alpha.max()))
    counts = figures.draw_history(history, "num_trap_layers")
    assert list(counts.lines[0].get_ydata()) == history.series("num_trap_layers")


def cells(mesh, shape):
    return np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(shape)


def test_layer_map_has_one_row_per_layer_and_one_column_per_step(history):
    ax = figures.draw_layer_map(history)
    sure, pale, failed = (cells(mesh, (3, 3)) for mesh in ax.collections[:3])
    assert np.where(np.isnan(sure), pale, sure)[0].tolist() == history.series("alpha", "first")
    for step, report in enumerate(history):
        assert np.isnan(sure[0, step]) == (not report["first"].reliable)
    assert np.isnan([sure[2], pale[2]]).all()  # the head has no fit
    assert np.isnan(failed).all()
    assert ax.collections[0].get_clim() == (1.0, 8.0)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 300), (3, 0))
    ranks = figures.draw_layer_map(history, "stable_rank").collections[0]
    assert ranks.get_clim() != (1.0, 8.0)
    assert cells(ranks, (3, 3))[1].tolist() == history.series("stable_rank", "second")


def test_the_map_says_what_is_pale_failed_and_missing_and_leaves_gaps_and_layers_without_a_matrix_out():
    def report(step):
        noise = LayerReport(name="noise", kind="x", M=60, alpha=9.0, reliable=False, step=step)
        lost = LayerReport(name="lost", kind="x", M=60, status="failed", reason="non-finite weights", step=step)
        bias = LayerReport(name="bias", kind="x", status="skipped", reason="no matrix", step=step)
        return Report((noise, bias, lost), step)

    ax = figures.draw_layer_map(History(map(report, (0, 10, 20, 60, 70))))
    sure, pale, failed = (cells(mesh, (2, 6)) for mesh in ax.collections[:3])
    assert np.isnan(sure).all()
    assert np.isfinite(pale).tolist() == [[True, True, True, False, True, True], [False] * 6]
    assert np.isfinite(failed).tolist() == [[False] * 6, [True, True, True, False, True, True]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["noise", "lost"]
    said = ax.get_xlabel().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert said == "optimizer steps pale: no reliable tail, grey: failed, white: no result"


@pytest.mark.parametrize("draw", [figures.draw_history, figures.draw_layer_map])
def test_a_metric_that_is_none_is_named(history, draw):
    for metric in ("alfa", "kind"):
        with pytest.raises(ValueError, match=f"metric.*{metric}"):
            draw(history, metric)
    with pytest.raises(ValueError, match="no report"):
        draw(History())


@pytest.mark.parametrize("draw", [figures.draw_correlation_flow, figures.draw_alpha_histogram])
def test_reports_without_a_fit_give_an_empty_picture(draw):
    assert draw(Report(())).get_title()
    single = Report((LayerReport(name="a", kind="x", alpha=3.0),))
    assert draw(single).get_title()


def test_names_are_shown_as_they_are(report):
    odd = "$\\frac$ <script>&\n" + "x" * 40
    layer = LayerReport(**{**vars_of(report["first"]), "name": odd})
    ugly = Report((layer,))
    for draw in (figures.draw_correlation_flow, figures.draw_alpha_histogram):
        assert figures.render(lambda ax, draw=draw: draw(ugly, ax)).startswith(b"\x89PNG")
    picture = figures.render(
        lambda ax: figures.draw_esd(LayerReport(**{**vars_of(layer), "name": "$a<b"}), ax), kind="svg"
    )
    assert b"$a&lt;b" in picture


def vars_of(layer):
    return {name: getattr(layer, name) for name in LayerReport.__dataclass_fields__}


def test_the_given_axes_are_used_and_returned(report, history):
    for draw, of in (
        (figures.draw_esd, report["first"]),
        (figures.draw_correlation_flow, report),
        (figures.draw_alpha_histogram, report),
        (figures.draw_history, history),
        (figures.draw_layer_map, history),
    ):
        ax = figures.Figure().subplots()
        assert draw(of, ax=ax) is ax


def test_pictures_are_the_same_every_time(report):
    for kind in ("png", "svg"):
        first, second = (figures.render(lambda ax: figures.draw_esd(report["first"], ax), kind=kind) for _ in range(2))
        assert first == second
        assert len(first) < 60_000


def gpt(blocks):
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return ["transformer.wte", *(f"transformer.h.{block}.{part}" for block in range(blocks) for part in parts), "head"]


def run_of(names, report):
    """A run whose layers are those of a report, one after the other, with a gap and a layer that fails."""
    fitted = [layer for layer in report if layer.is_fitted]
    lost = LayerReport(name="", kind="x", M=60, status="failed", reason="non-finite weights")
    sources = {step: [*fitted, lost] if step > 100 else fitted for step in (0, 50, 100, 250, 300)}
    return [
        Report(tuple(replace(fit[i % len(fit)], name=name, step=step) for i, name in enumerate(names)), step)
        for step, fit in sources.items()
    ]


@pytest.mark.parametrize("names", [["encoder.fc1", "encoder.fc2", "decoder", "x" * 90], gpt(24)], ids=len)
@pytest.mark.parametrize("picture", ["esd", "flow", "histogram", "map"])
def test_text_is_legible_and_apart_where_tensorboard_shows_a_picture_360_pixels_wide(
    report, names, picture, monkeypatch
):
    *_, last = reports = run_of(names, report)
    draw = {
        "esd": partial(figures.draw_esd, last.layers[0]),
        "flow": partial(figures.draw_correlation_flow, last),
        "histogram": partial(figures.draw_alpha_histogram, last),
        "map": partial(figures.draw_layer_map, History(reports)),
    }[picture]
    figure = figures.Figure(figsize=figures.CARD_SIZE, dpi=360 / figures.CARD_SIZE[0], layout="constrained")
    draw(ax=figure.subplots())
    texts = drawn_texts(figure, monkeypatch)
    assert len(texts) >= 6
    for text, box in texts:
        assert min(box.width, box.height) >= 11 * len(text.splitlines()) or len(text) == 1, text
        assert (box.x0 >= 0, box.x1 <= 360) == (True, True), text
    for (text, box), (other, its_box) in itertools.combinations(texts, 2):
        assert not box.overlaps(its_box), (text, other)


def drawn_texts(figure, monkeypatch):
    """Each text that is drawn, with its box in pixels."""
    seen, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (seen.append(text), draw(text, renderer))[1])
    figure.draw_without_rendering()
    return [(text.get_text(), text.get_window_extent()) for text in seen if text.get_text() and text.get_visible()]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("imported", [False, True])
def test_a_new_figure_is_pyplots_only_where_pyplot_is_in_use(imported):
    script = f"""
import sys
if {imported}:
    import matplotlib; matplotlib.use("agg"); import matplotlib.pyplot
from ww_callbacks.outputs import figures
from ww_callbacks.report import Report
figures.draw_alpha_histogram(Report(()))
pyplot = sys.modules.get("matplotlib.pyplot")
print(None if pyplot is None else len(pyplot.get_fignums()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True, env={"PATH": "/usr/bin"}
    )
    assert done.stdout.split() == ["1" if imported else "None"]
