import json
import math
import subprocess
import sys
import warnings
from dataclasses import asdict
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ww_callbacks.analysis import Axes, LayerSpec, Settings, analyze_layer, as_matrices
from ww_callbacks.report import LayerReport, Report, TrapKind
from ww_callbacks.spectra import TrapKind as SpectraTrapKind
from ww_callbacks.spectra import eigenvalues, shuffled_control

NOISE = np.random.default_rng(0).standard_normal((128, 96))


def analyze(array: np.ndarray, step: int | None = None, **options: object) -> LayerReport:
    is_conv = array.ndim == 4
    axes = ((2, 3), (0,), (1,)) if is_conv else ((), (0,), (1,))
    spec = LayerSpec("layer", "Layer", array.shape, str(array.dtype), axes, "convolution" if is_conv else "matrix")
    return analyze_layer(spec, array, Settings(**options), step)


def trained(shape: tuple[int, int] = (200, 100), seed: int = 0) -> np.ndarray:
    """Gaussian noise plus a low-rank part with power-law singular values."""
    rng = np.random.default_rng(seed)
    rows, columns = shape
    left, right = rng.standard_normal((rows, 30)), rng.standard_normal((30, columns))
    return rng.standard_normal(shape) + (left * (rng.pareto(1.5, 30) + 0.3)) @ right / 4


def numbers(layer: LayerReport) -> dict[str, float]:
    return {key: value for key, value in layer.to_dict().items() if type(value) in (int, float)}


def kernel(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((40, 30, 3, 3))


def test_trained_layer_has_all_columns():
    layer = analyze(trained(seed=1))
    on_request = {
        "Lambda",
        "alpha_error",
        "alpha_farms",
        "gof_pvalue",
        "vs_exponential",
        "vs_lognormal",
        "vs_truncated",
    }
    missing = {key for key, value in layer.to_dict().items() if value is None}
    assert missing == on_request | {"step", "skip_reason", "trap_kind"}
    assert (layer.status, layer.reliable, layer.warning) == ("ok", True, "over-trained")


def test_optional_columns():
    layer = analyze(trained((80, 60)), precision="float32", gof=True, compare=True, spectrum=True)
    assert 0 <= layer.gof_pvalue <= 1
    assert 0 <= layer.alpha_error < 0.1
    assert layer.vs_exponential in ("power law", "exponential", "undecided")
    assert layer.vs_lognormal in ("power law", "log-normal", "undecided")
    assert layer.vs_truncated in ("truncated power law", "undecided")
    assert len(layer.spectrum) == 60
    assert max(layer.spectrum) == layer.lambda_max


def test_no_control_columns_without_control():
    layer = analyze(trained(), randomize=False)
    control = ("rand_alpha", "max_rand_eval", "ww_softrank", "rand_distance", "num_traps", "trap_pvalue", "trap_size")
    assert [getattr(layer, name) for name in control] == [None] * 7
    assert layer.histogram.rand_counts is None
    assert layer.alpha == analyze(trained()).alpha


def test_column_definitions():
    W = trained()
    layer, values, control = analyze(W), eigenvalues(W), shuffled_control(W)
    assert layer.ww_softrank == pytest.approx(control.max_rand_eval / values[-1])
    assert layer.num_traps == control.num_traps
    assert layer.ERG_gap == layer.detX_num - layer.num_pl_spikes
    assert layer.alpha_weighted == pytest.approx(layer.alpha * math.log10(layer.lambda_max))
    assert layer.finger_shift == pytest.approx(analyze_without_largest(values).alpha - layer.alpha)
    assert sum(layer.histogram.counts) == sum(layer.histogram.rand_counts) == 100


def analyze_without_largest(values: np.ndarray) -> LayerReport:
    return analyze(np.diag(np.sqrt(values[:-1])), randomize=False)


def test_kernel_positions_are_pooled():
    W = kernel()
    layer = analyze(W)
    pooled = np.sort(np.concatenate([eigenvalues(W[:, :, i, j]) for i in range(3) for j in range(3)]))
    assert (layer.N, layer.M, layer.rf, layer.num_evals) == (40, 30, 9, 270)
    assert layer.lambda_max == pytest.approx(pooled[-1] / 2)
    assert layer.norm == pytest.approx((W**2).sum() / 2)


@pytest.mark.parametrize(("scale", "factor"), [("weightwatcher", 0.5), ("paper", 4.5), ("none", 1.0)])
def test_conv_scale_changes_scale_metrics_only(scale, factor):
    plain, scaled = analyze(kernel(), conv_scale="none"), analyze(kernel(), conv_scale=scale)
    for name in ("lambda_max", "norm", "xmin", "bulk_max", "max_rand_eval"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(plain, name))
    for name in ("alpha", "D", "sigma_mp", "num_spikes", "num_traps", "trap_pvalue", "rand_distance"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-6)


@pytest.mark.parametrize("factor", [1e-20, 1e15])
@pytest.mark.parametrize("make", [trained, kernel])
def test_alpha_does_not_depend_on_weight_scale(make, factor):
    one, scaled = analyze(make()), analyze(make() * factor)
    for name in ("alpha", "D", "alpha_hill", "stable_rank", "entropy", "sigma_mp", "rand_alpha", "ww_softrank"):
        assert getattr(scaled, name) == pytest.approx(getattr(one, name), rel=1e-4)
    for name in ("num_traps", "num_spikes", "detX_num", "warning", "reliable", "matrix_rank"):
        assert getattr(scaled, name) == getattr(one, name)


def test_planted_element_is_a_trap_and_planted_direction_a_spike():
    W = np.random.default_rng(0).standard_normal((200, 100))
    direction = W + np.outer(np.ones(200), np.random.default_rng(1).standard_normal(100))
    assert (analyze(direction).num_spikes, analyze(direction).num_traps) == (1, 0)
    W[3, 3] = 60
    assert (analyze(W).num_spikes, analyze(W).num_traps) == (0, 1)


def test_warnings():
    assert analyze(np.random.default_rng(0).standard_normal((200, 100))).warning in ("no tail", "under-trained")
    assert not analyze(np.random.default_rng(0).standard_normal((200, 100))).reliable
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((300, 200)))[0]
    right = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    heavy = (left * (rng.pareto(0.5, 200) + 1)) @ right  # λ = s², so the density of λ has exponent 1.25
    layer = analyze(heavy)
    assert layer.alpha_high < 2
    assert (layer.reliable, layer.warning) == (True, "over-trained")


BAD = {
    "nan": (np.full((30, 30), np.nan), "failed", "non-finite"),
    "one inf": (np.where(np.eye(30) > 0, np.inf, 1.0), "failed", "non-finite"),
    "zero": (np.zeros((40, 30)), "skipped", "zero"),
    "constant": (np.ones((40, 30)), "skipped", "1 of 30 eigenvalues above the rounding error"),
    "rank one": (np.outer(np.arange(1, 41.0), np.arange(1, 31.0)), "skipped", "1 of 30"),
    "one row": (np.ones((1, 50)), "skipped", "1 non-zero"),
    "empty": (np.zeros((0, 5)), "skipped", "empty"),
    "few eigenvalues": (np.random.default_rng(0).standard_normal((100, 10)), "skipped", "10 non-zero"),
    "orthogonal": (np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0], "skipped", "equal"),
    "too large": (np.full((30, 30), 1e300) * np.random.default_rng(0).random((30, 30)), "failed", "range"),
    "too small": (np.full((30, 30), 1e-300) * np.random.default_rng(0).random((30, 30)), "failed", "range"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(
    "options", [{}, {"precision": "float32", "interval": "bootstrap"}, {"fit": "TPL", "compare": True}]
)
def test_invalid_weights_have_status_and_reason(name, options):
    array, status, reason = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = analyze(array, **options)
    assert layer.status == status
    assert reason in layer.reason
    assert layer.alpha is None
    assert all(math.isfinite(value) for value in numbers(layer).values())
    assert all(math.isfinite(value) for value in Report.of([layer]).summary().values())


elements = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True),
    st.floats(-2, 2, width=16),
    st.sampled_from([0.0, 1.0, -1.0, 5e-324, 1e-310, 1e-160, 1e160]),
)
shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
matrices = st.one_of(
    arrays(np.float64, shapes, elements=elements),
    arrays(np.float32, shapes, elements=st.floats(-10, 10, width=32)),
    arrays(np.int16, shapes, elements=st.integers(-3, 3)),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(20, 40), st.integers(20, 40)).map(
        lambda t: np.random.default_rng(t[0]).standard_normal(t[1:])
    ),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "precision": st.sampled_from(["float64", "float32"]),
        "randomize": st.booleans(),
        "compare": st.booleans(),
        "fit": st.sampled_from(["PL", "TPL"]),
    },
)


def survives(array: np.ndarray, options: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = analyze(array, **options)
    assert layer.status == "ok" or layer.reason
    assert all(math.isfinite(value) for value in numbers(layer).values())
    assert Report.from_dicts(json.loads(json.dumps(Report((layer,)).to_dicts()))).layers == (layer,)


@given(matrices, OPTIONS)
@example(np.eye(1, 21) * 2.92582356e153, {})  # 21 times its square overflows
@settings(max_examples=60, deadline=None)
def test_no_matrix_raises(array, options):
    survives(array, options)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(matrices, OPTIONS)
@settings(max_examples=2000, deadline=None)
def test_no_matrix_raises_exhaustive(array, options):
    survives(array, options)


def test_report_is_reproducible_without_global_random_state():
    np.random.seed(1)  # noqa: NPY002 - the state under test
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    options = {"interval": "bootstrap", "precision": "float32"}
    assert analyze(trained(), **options) == analyze(trained(), **options)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_report_is_the_same_in_another_process():
    script = (
        "import json, numpy as np\n"
        "from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer\n"
        "W = np.random.default_rng(0).standard_normal((60, 50))\n"
        "spec = LayerSpec('layer', 'Layer', W.shape, 'float64', ((), (0,), (1,)))\n"
        "print(json.dumps(analyze_layer(spec, W, Settings()).to_dict()))"
    )
    runs = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1
    here = analyze(np.random.default_rng(0).standard_normal((60, 50)))
    there = LayerReport.from_dict(json.loads(runs.pop()))
    assert there.alpha == pytest.approx(here.alpha, rel=1e-9)
    assert there.num_traps == here.num_traps


def test_control_does_not_depend_on_storage_order():
    """Keras kernels (in, out) and torch weights (out, in) with the same values."""
    W = np.random.default_rng(0).standard_normal((50, 30))
    torch_layer = analyze(W)
    spec = LayerSpec("layer", "Layer", (30, 50), "float64", ((), (1,), (0,)))
    keras_layer = analyze_layer(spec, np.ascontiguousarray(W.T), Settings())
    assert keras_layer.max_rand_eval == pytest.approx(torch_layer.max_rand_eval, rel=1e-6)
    assert keras_layer.rand_alpha == pytest.approx(torch_layer.rand_alpha, rel=1e-4)


def test_bfloat16_is_decoded():
    words = (np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    spec = LayerSpec("layer", "Layer", (40, 30), "bfloat16", ((), (0,), (1,)))
    matrix = as_matrices(spec, words)[0]
    assert matrix.dtype == np.float32
    assert analyze_layer(spec, words, Settings()).norm == pytest.approx(float((matrix.astype(float) ** 2).sum()))


def test_float32_error_is_within_its_estimate():
    exact, fast = analyze(trained((300, 200))), analyze(trained((300, 200)), precision="float32")
    assert exact.alpha_error is None
    assert 0 < abs(fast.alpha - exact.alpha) <= fast.alpha_error < 0.05


def decades(shape: tuple[int, int]) -> np.ndarray:
    """Eigenvalues spread evenly over ten decades."""
    rng = np.random.default_rng(0)
    rows, columns = shape
    left, right = (np.linalg.qr(rng.standard_normal((size, columns)))[0] for size in (rows, columns))
    return (left * 10 ** rng.uniform(-5, 0, columns)) @ right


def square(shape: tuple[int, int]) -> np.ndarray:
    """Square random matrices have an eigenvalue near zero."""
    return np.random.default_rng(0).standard_normal((shape[0], shape[0]))


@pytest.mark.parametrize("make", [trained, decades, square])
def test_single_precision_shows_no_wrong_rank(make):
    exact, fast = (analyze(make((300, 200)), precision=p, randomize=False) for p in ("float64", "float32"))
    for name in ("matrix_rank", "rank_loss"):
        assert getattr(fast, name) in (None, getattr(exact, name))
    assert fast.entropy is None or fast.entropy == pytest.approx(exact.entropy, rel=1e-5)
    assert fast.alpha_hill == pytest.approx(exact.alpha_hill, rel=1e-4)
    assert abs(fast.alpha - exact.alpha) <= (fast.alpha_error or 0)


def test_single_precision_leaves_an_undecided_rank_out():
    fast = analyze(square((300, 300)), precision="float32", randomize=False)
    assert (fast.matrix_rank, fast.rank_loss, fast.entropy) == (None, None, None)
    assert fast.status == "ok"


def test_spectra_too_wide_for_single_precision_are_computed_in_double_precision():
    exact, fast = (analyze(decades((300, 200)), precision=p) for p in ("float64", "float32"))
    assert fast == exact
    assert fast.alpha_error is None


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_large_mean_does_not_hide_the_other_eigenvalues(precision, dtype):
    noise = np.random.default_rng(0).standard_normal((400, 400))
    W = (1e7 * np.ones(noise.shape) + noise * (1 if dtype == np.float64 else 1e3)).astype(dtype)
    layer = analyze(W, precision=precision, spectrum=True)
    exact = np.sort(np.linalg.svd(W.astype(np.float64), compute_uv=False)) ** 2
    assert (layer.status, layer.num_evals, layer.matrix_rank) == ("ok", 400, 400)
    np.testing.assert_allclose(layer.spectrum, exact, rtol=1e-6)
    assert layer.xmin >= exact[0]


def test_zero_eigenvalues_do_not_count():
    rng = np.random.default_rng(0)
    low_rank = rng.standard_normal((200, 40)) @ rng.standard_normal((40, 100))
    exact = np.linalg.svd(low_rank, compute_uv=False)[:40] ** 2
    for dtype in (np.float64, np.float32):  # float32 adds rounding errors, which are no part of the spectrum
        layer = analyze(low_rank.astype(dtype))
        assert sum(layer.histogram.counts) == 40
        assert layer.alpha == pytest.approx(analyze_diagonal(exact).alpha, rel=1e-5)


def analyze_diagonal(values: np.ndarray) -> LayerReport:
    return analyze(np.diag(np.sqrt(values)), randomize=False)


def test_bootstrap_and_truncated_fit_change_their_columns_only():
    plain, boot = analyze(trained(seed=1)), analyze(trained(seed=1), interval="bootstrap")
    assert (boot.alpha, boot.D) == (plain.alpha, plain.D)
    assert boot.alpha_low < boot.alpha < boot.alpha_high
    assert (boot.alpha_low, boot.alpha_high) != (plain.alpha_low, plain.alpha_high)
    cut = analyze(trained(seed=1), fit="TPL")
    assert cut.Lambda >= 0
    assert cut.alpha <= plain.alpha
    assert (cut.xmin, cut.num_pl_spikes, cut.warning) == (plain.xmin, plain.num_pl_spikes, plain.warning)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"conv_scale": "half"}, ValueError),
        ({"precision": "float16"}, ValueError),
        ({"interval": "exact"}, ValueError),
        ({"fit": "E_TPL"}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"seed": True}, TypeError),
        ({"randomize": 1}, TypeError),
        ({"gof": "yes"}, TypeError),
        ({"compare": None}, TypeError),
        ({"spectrum": 0}, TypeError),
        ({"interval": "bootstrap", "fit": "TPL"}, ValueError),
        ({"min_evals": 7}, ValueError),
        ({"min_evals": 12.0}, TypeError),
        ({"min_evals": 12, "fit": "TPL"}, ValueError),
        ({"min_evals": 12, "interval": "bootstrap"}, ValueError),
    ],
)
def test_invalid_settings_raise(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        Settings(**arguments)


def test_settings_survive_json():
    chosen = Settings(conv_scale="paper", randomize=False, precision="float32", seed=7, compare=True)
    assert Settings.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
    assert Settings.from_dict({}) == Settings()
    with pytest.raises(ValueError, match="colour"):
        Settings.from_dict({"colour": "red"})


def test_axes_keep_their_names_in_a_message_to_the_worker() -> None:
    spec = LayerSpec("conv", "Conv2d", (8, 4, 3, 3), "float32", Axes((2, 3), (0,), (1,)), role="convolution")
    received = LayerSpec(**json.loads(json.dumps(asdict(spec))))
    assert received.axes == spec.axes
    assert received.axes.outputs == (0,)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "matrix",
    [
        NOISE[:1],
        NOISE[:, :1],
        np.repeat(NOISE[:1], 128, axis=0),
        np.random.default_rng(1).choice([0.0, 1.0], (128, 96)),
        NOISE * (np.random.default_rng(2).random((128, 96)) < 0.01),
        NOISE * 1e-30,
        NOISE * 1e30,
        (NOISE * 1e-30).astype("f4"),
        np.where(np.arange(128 * 96).reshape(128, 96) == 292, 1e9, 0),
        np.where(np.arange(128 * 96).reshape(128, 96) == 292, 1e9, NOISE),
        np.ones((128, 96)),
    ],
    ids=[
        "one row",
        "one column",
        "equal rows",
        "two values",
        "99 % zeros",
        "1e-30",
        "1e30",
        "1e-30 in single precision",
        "one element",
        "a huge element",
        "equal elements",
    ],
)
def test_unusual_weights_are_never_called_trained(matrix):
    layer = analyze(matrix)
    assert layer.status == "ok" or layer.reason
    assert layer.null != "arranged"
    assert not layer.reliable
    assert layer.warning in ("no tail", "cannot be told", "")


def test_diagonal_matrix_cannot_be_told_from_noise():
    """No element shares a rectangle with others, so every choice of signs gives the same spectrum."""
    layer = analyze(np.diag(np.linspace(1, 2, 80) * (-1.0) ** np.arange(80)))
    assert (layer.null, layer.null_pvalue, layer.warning) == ("cannot be told", None, "cannot be told")
    assert not layer.reliable
    assert layer.num_traps == 0


def test_reports_name_the_same_kinds_of_traps():
    assert get_args(TrapKind) == get_args(SpectraTrapKind)


@pytest.mark.parametrize("shape", [(128, 64), (80, 80)])
def test_identity_is_no_tail(shape):
    layer = analyze(np.eye(*shape) + 0.01 * np.random.default_rng(0).standard_normal(shape))
    assert (layer.null, layer.warning, layer.num_traps) == ("random", "no tail", 0)
