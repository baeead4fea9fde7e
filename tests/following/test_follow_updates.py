"""The columns about changes from followed checkpoints: those of the callback, whatever happens to the files."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.following.holding import FOLDER as KEPT
from ww_callbacks.following.ledger import Ledger

STEPS = [0, 10, 20, 30, 40]
COLUMNS = ("update_norm", "update_rank", "update_since", "learned_norm", "learned_rank", "learned_since")


class Killed(BaseException):
    """What ends a process at this point."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a callback and a checkpoint at each snapshot: layers that learn, rest for a while, and turn."""
    run, rng = tmp_path_factory.mktemp("trained"), np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((80, 2)))[0], np.linalg.qr(rng.standard_normal((50, 1)))[0][:, 0]
    arrays = {name: rng.standard_normal((80, 50)).astype("f4") for name in ("learns.weight", "rests.weight")}
    arrays["turns.weight"] = (rng.standard_normal((80, 50)) + 400 * np.outer(left[:, 0], right)).astype("f4")
    with ww.Monitor(arrays, every_n_steps=10, updates=True, deterministic=True, timeout=300) as monitor:
        save(run, 0, arrays)
        for step in range(1, STEPS[-1] + 1):
            arrays["learns.weight"] += (0.02 * np.outer(*(rng.standard_normal(size) for size in (80, 50)))).astype("f4")
            if not 10 < step <= 30:
                arrays["rests.weight"] += (0.001 * rng.standard_normal((80, 50))).astype("f4")
            arrays["turns.weight"] += (3 * np.outer(left[:, 1], right)).astype("f4")
            monitor.step(step)
            if step % 10 == 0:
                save(run, step, arrays)
    return run, monitor.history


def save(run, step, arrays):
    path = run / f"step-{step}.npz"
    np.savez(path, **arrays)
    os.utime(path, (10**9 + step, 10**9 + step))


def put(run, source, *steps):
    run.mkdir(exist_ok=True)
    for step in steps:
        shutil.copy2(source / f"step-{step}.npz", run)


def follow(run, **arguments):
    return ww.follow(run, once=True, figures=False, updates=True, **arguments)


def assert_same(history, expected, number=lambda value: value):
    """Whether all columns are the same, without the class, which files do not name."""
    assert history.steps == expected.steps
    for report, other in zip(history, expected, strict=True):
        for layer, ours in zip(report, other, strict=True):
            found = {**layer.to_dict(), "kind": ours.kind}
            assert found.keys() == ours.to_dict().keys()
            assert found == {name: number(value) for name, value in ours.to_dict().items()}


def columns(layer):
    return {name: getattr(layer, name) for name in COLUMNS}


def kept(run):
    return sorted(path.name for path in (run / KEPT).glob("*/step-*"))


def test_the_columns_about_changes_are_those_of_the_callback(tmp_path, trained):
    source, expected = trained
    assert expected[-1]["turns"].update_rotation > 0  # the test covers it
    put(tmp_path, source, *STEPS)
    assert_same(follow(tmp_path), expected)
    assert kept(tmp_path) == ["step-0.npz", "step-40.npz"]
    with pytest.raises(ValueError, match=r"other settings \(updates: True, now False\)"):
        ww.follow(tmp_path, once=True, figures=False)


def test_an_interrupted_follower_goes_on_though_training_keeps_only_the_last_checkpoint(tmp_path, trained, monkeypatch):
    source, expected = trained
    put(tmp_path, source, *STEPS[:3])

    def record(ledger, result, problem=""):
        if result.step == 20:
            raise Killed
        return recorded(ledger, result, problem)

    recorded = Ledger.record
    monkeypatch.setattr(Ledger, "record", record)
    with pytest.raises(Killed):
        follow(tmp_path)
    monkeypatch.undo()
    for path in tmp_path.glob("step-*.npz"):
        path.unlink()
    put(tmp_path, source, *STEPS[3:4])
    assert follow(tmp_path).steps == STEPS[:4]
    (tmp_path / "step-30.npz").unlink()
    put(tmp_path, source, *STEPS[4:])
    assert_same(follow(tmp_path), expected)
    assert kept(tmp_path) == ["step-0.npz", "step-40.npz"]
    assert list((tmp_path / "ww_follow" / ".follow" / "updates").iterdir()) == []


def test_the_workers_of_an_executor_read_the_earlier_checkpoints_themselves(tmp_path, trained):
    source, expected = trained
    put(tmp_path, source, *STEPS)
    with ThreadPoolExecutor(2) as executor:
        history = follow(tmp_path, executor=executor)
    # sums are rounded differently where the number of threads is not fixed
    assert_same(history, expected, lambda value: pytest.approx(value, 1e-6) if isinstance(value, float) else value)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_columns_whose_earlier_checkpoint_is_gone_are_empty(tmp_path, trained, caplog, how):
    source, expected = trained
    put(tmp_path, source, 0, 10)
    follow(tmp_path, hold=0)
    if how == "deleted":
        (tmp_path / "step-10.npz").unlink()
    else:  # other weights of the same size and time
        shutil.copyfile(source / "step-40.npz", tmp_path / "step-10.npz")
        os.utime(tmp_path / "step-10.npz", (10**9 + 10, 10**9 + 10))
    put(tmp_path, source, 20)
    history = follow(tmp_path, hold=0)
    for layer in history[-1]:
        ours = columns(expected[2][layer.name])
        assert columns(layer) == {**ours, "update_norm": None, "update_rank": None, "update_since": None}
    assert "step 20: no changes since step 10 for 3 of 3 layers" in caplog.text
    (tmp_path / "step-0.npz").unlink()
    put(tmp_path, source, 30)
    for layer in follow(tmp_path, hold=0)[-1]:
        ours = columns(expected[3][layer.name])
        assert columns(layer) == {**ours, "learned_norm": None, "learned_rank": None, "learned_since": None}


def test_another_model_and_other_layers_are_not_compared(tmp_path, trained):
    source, expected = trained
    put(tmp_path, source, 0, 30)
    np.savez(tmp_path / "step-10.npz", **{"other.weight": np.random.default_rng(1).standard_normal((60, 40))})
    arrays = dict(np.load(source / "step-20.npz"))
    arrays["rests.weight"], arrays["new.weight"] = arrays["rests.weight"][:70], arrays["rests.weight"]
    save(tmp_path, 20, arrays)
    history = follow(tmp_path)
    assert history.steps == [0, 20, 30]
    changed, last = history[1], history[2]
    assert columns(changed["rests"]) == columns(changed["new"]) == dict.fromkeys(COLUMNS)
    assert (changed["learns"].update_since, changed["learns"].learned_since) == (0, 0)
    assert columns(last["learns"]) == columns(expected[3]["learns"])
    assert (last["rests"].update_since, last["rests"].learned_since) == (None, 0)  # it had another shape in between


def test_a_restarted_run_is_compared_with_what_it_continues(tmp_path, trained):
    source, expected = trained
    put(tmp_path, source, 0, 10, 20, 30)
    follow(tmp_path)
    shutil.copyfile(source / "step-30.npz", tmp_path / "step-20.npz")
    os.utime(tmp_path / "step-20.npz", (10**9 + 90, 10**9 + 90))
    history = follow(tmp_path)
    assert history.steps == [0, 10, 20]
    layer, rests = history[-1]["learns"], history[-1]["rests"]
    assert (layer.update_since, layer.learned_since) == (10, 0)
    assert layer.learned_norm == expected[3]["learns"].learned_norm
    assert (rests.update_norm, rests.unchanged_since) == (0.0, 10)
