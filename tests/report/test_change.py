import json

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import OPTIONAL_COLUMNS, LayerReport, Report, in_words


def layer(name: str, **columns: object) -> LayerReport:
    return LayerReport(name=name, kind="Linear", **({"N": 100, "M": 60, "rf": 1, "norm": 1.0} | columns))


def changes(now: dict[str, dict], before: dict[str, dict], **distances: float) -> dict[str, LayerReport]:
    models = [Report(tuple(layer(name, **columns) for name, columns in each.items())) for each in (now, before)]
    moved = [layer(name, distance=distance) for name, distance in distances.items()]
    return {each.name: each for each in models[0].against(models[1], moved)}


def test_numbers_are_differences_and_exist_where_both_sides_do():
    found = changes(
        {"a": {"alpha": 3.0, "log_spectral_norm": 1.0}, "b": {"alpha": None}, "new": {"alpha": 2.0}},
        {"a": {"alpha": 5.5, "log_spectral_norm": 0.5}, "b": {"alpha": 4.0}},
        a=0.25,
    )
    assert (found["a"].delta_alpha, found["a"].delta_log_lambda_max, found["a"].distance) == (-2.5, 0.5, 0.25)
    assert (found["b"].delta_alpha, found["b"].distance, found["b"].hardly_moved) == (None, None, None)
    assert found["new"].change == "not in the baseline"


@pytest.mark.parametrize(("size", "word"), [(-1.4, "fell to 0.0398 times"), (1.4, "rose to 25.1 times")])
def test_scale_collapse_is_flagged_in_both_directions(size, word):
    before = {name: {"log_spectral_norm": 0.0} for name in "abcdef"}
    now = {name: {"log_spectral_norm": 0.01 * i} for i, name in enumerate("abcdef")}
    found = changes(now | {"c": {"log_spectral_norm": size}}, before)
    assert [name for name, each in found.items() if each.scale_collapse] == ["c"]
    assert "scale collapse" in found["c"].change
    assert word in found["c"].change


def test_a_small_change_is_no_collapse_however_still_the_others_stand():
    before = {name: {"log_spectral_norm": 0.0} for name in "abcdef"}
    found = changes(before | {"a": {"log_spectral_norm": 0.05}}, before)
    assert not any(each.scale_collapse for each in found.values())


def test_many_collapsed_layers_do_not_hide_each_other():
    """With the median deviation of all layers, the last of the eight would lie within 3.5 of it."""
    sizes = [-1.5, -1.4, -1.3, -1.3, -1.2, -1.2, -1.1, -0.9, -0.2, -0.1, *np.linspace(-0.05, 0.3, 12)]
    before = {str(i): {"log_spectral_norm": 0.0} for i in range(22)}
    found = changes({str(i): {"log_spectral_norm": size} for i, size in enumerate(sizes)}, before)
    assert [name for name, each in found.items() if each.scale_collapse] == [str(i) for i in range(8)]


def test_layers_that_hardly_moved():
    columns = {name: {"alpha": 3.0} for name in "abcd"}
    found = changes(columns, columns, a=0.5, b=0.4, c=0.02, d=0.0)
    assert [name for name, each in found.items() if each.hardly_moved] == ["c", "d"]
    assert found["c"].change == "moved little: by 2 % of its norm, the median layer by 21 %"
    assert found["d"].change == "has not moved"
    assert found["a"].change == ""


@pytest.mark.parametrize(
    ("now", "before", "sentence"),
    [
        (
            {"alpha": 4.1, "alpha_low": 3.9, "alpha_high": 4.3},
            {"alpha": 2.3, "alpha_low": 2.0, "alpha_high": 2.6},
            "alpha rose from 2.30 to 4.10, beyond both 95 % intervals",
        ),
        ({"alpha": 2.1}, {"alpha": 4.1, "warning": "no tail"}, "a tail has formed"),
        ({"alpha": 2.1, "warning": "no tail"}, {"alpha": 4.1}, "now no tail"),
        ({"alpha": 3.1}, {"alpha": 9.0, "warning": "under-trained"}, "no longer under-trained"),
        ({"num_traps": 2}, {"num_traps": 0}, "2 correlation traps; the baseline has none"),
        ({"matrix_rank": 8}, {"matrix_rank": 60}, "rank 8, was 60"),
        (
            {"norm": None, "status": "skipped", "reason": "all weights are zero"},
            {},
            "all weights are zero, the baseline has values",
        ),
        (
            {"reason": "8 non-zero eigenvalues"},
            {"alpha": 3.0},
            "no fit: 8 non-zero eigenvalues",
        ),
        ({"M": 40}, {}, "size differs from the baseline (100 x 60, 1 of them)"),
        ({"alpha": 3.0, "alpha_low": 2.0, "alpha_high": 4.0}, {"alpha": 2.5, "alpha_low": 1.9, "alpha_high": 3.1}, ""),
    ],
)
def test_what_is_noticeable_is_said_in_words(now, before, sentence):
    assert changes({"fc": now}, {"fc": before})["fc"].change == sentence


@pytest.mark.parametrize(("before", "now", "new"), [(1, 2, True), (2, 2, False), (2, 1, False), (None, 2, None)])
def test_traps_are_told_once(before, now, new):
    found = changes({"fc": {"num_traps": now}}, {"fc": {"num_traps": before}})["fc"]
    assert found.new_traps is new
    assert in_words(found).count("correlation trap") == 1


def test_changes_travel_as_json_and_stand_in_frame_and_table():
    now, before = Report((layer("fc", alpha=3.0, num_evals=60, num_pl_spikes=9),)), Report((layer("fc", alpha=5.0),))
    report = now.against(before, [layer("fc", distance=0.0)])
    assert Report.from_dicts(json.loads(json.dumps(report.to_dicts()))) == report
    assert not set(OPTIONAL_COLUMNS) & set(now.to_dicts()[0])
    assert report.to_pandas().distance.tolist() == [0.0]
    assert "Δalpha" in str(report)
    assert "fc: has not moved" in str(report)
    assert "Δalpha" not in str(now)


def test_a_history_compares_its_end_with_its_start():
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((100, 60)), "b": rng.standard_normal((100, 60))}
    with ww.Monitor(weights, every_n_steps=1) as monitor:
        weights["a"] += 4 * np.outer(np.ones(100), np.ones(60)) / 10
        monitor.step(1)
    report = monitor.history[-1].against(monitor.history[0])
    assert report["a"].delta_log_lambda_max > 0.5
    assert report["b"].delta_log_lambda_max == 0


def test_the_whole_model_is_told_in_a_line():
    now, before = (Report((layer("a", null="arranged"), layer("b", null="arranged"))) for _ in range(2))
    report = now.against(before, [layer("a", distance=0.1, forgetting=0.5), layer("b", distance=0.3, forgetting=0.1)])
    assert "against the baseline: median distance 0.2 over 2 layers, mean forgetting 0.3 over 2 layers" in str(report)


def test_the_ranks_of_adapters_are_told_in_a_line_for_each_rank():
    adapters = [("a", 16, 3), ("b", 16, 13), ("c", 8, 8), ("d", 16, 4)]
    report = Report(tuple(layer(name, lora_rank=rank, lora_used=used) for name, rank, used in adapters))
    assert "low-rank adapters: rank 8 is paid for, 8 directions are used (1 layer)" in str(report)
    assert "rank 16 is paid for, 3 to 13 directions (median 4) are used (3 layers)" in str(report)
