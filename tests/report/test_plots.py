import subprocess
import sys

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import History, Report


@pytest.fixture(scope="module")
def reports():
    rng = np.random.default_rng(0)
    models = ({"a": rng.standard_t(3, (100, 60)), "b": rng.standard_normal((100, 60))} for _ in range(4))
    return [ww.analyze(model) for model in models]


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(0)
    models = {f"m{i}": {"fc": 1.3**i * rng.standard_normal((100, 60))} for i in range(4)}
    return ww.compare(models, quality={f"m{i}": float(i) for i in range(4)}, randomize=False)


def test_each_plot_draws_into_the_axes_it_is_given_and_returns_them(reports, comparison):
    figure = pytest.importorskip("matplotlib.figure")
    history = History(Report(report.layers, step) for step, report in enumerate(reports))
    for plot in (
        reports[0].plot,
        reports[0].plot_correlation_flow,
        reports[0]["a"].plot_esd,
        history.plot,
        comparison.plot,
    ):
        ax = figure.Figure().subplots()
        assert plot(ax=ax) is ax
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert plot() is not ax


def test_the_scatter_shows_both_correlations_by_colour_and_marker(comparison):
    pytest.importorskip("matplotlib")
    ax = comparison.plot("log_norm")
    found = next(each for each in comparison.correlations() if each.metric == "log_norm")
    labels = ax.get_legend_handles_labels()[1]
    assert labels == [f"models, r = {found.pearson:.3f}", f"shuffled weights, r = {found.shuffled_pearson:.3f}"]
    assert ax.get_title() == "n = 4: scale and depth"
    assert [text.get_text() for text in ax.texts] == ["m0", "m1", "m2", "m3"]
    models, shuffled = ax.collections
    assert len(models.get_offsets()) == len(shuffled.get_offsets()) == 4
    assert models.get_paths()[0].vertices.shape != shuffled.get_paths()[0].vertices.shape


def test_what_cannot_be_drawn_is_named(reports, comparison):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="quality"):
        ww.compare({"a": {"fc": np.eye(60)}}).plot()
    with pytest.raises(ValueError, match="'beta'"):
        comparison.plot("beta")
    with pytest.raises(ValueError, match="no report"):
        History().plot()


@pytest.mark.timeout(60)
def test_plots_need_no_display_and_name_the_extra_they_need():
    script = """
import sys
sys.modules["matplotlib"] = None
import numpy as np, ww_callbacks as ww
report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((80, 60))})
try:
    report.plot()
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True, env={}
    )
    assert "pip install ww_callbacks[plot]" in done.stdout
