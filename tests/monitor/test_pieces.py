"""Results are published in pieces, between which training continues."""

import numpy as np
import pytest
from processes import no_worker_left

import ww_callbacks as ww
from ww_callbacks.monitor import monitor as module

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def one_piece_per_step(monkeypatch):
    monkeypatch.setattr(module, "PIECE_SECONDS", 0.0)
    monkeypatch.setattr(module, "PIECE_SHARE", 0.0)
    with no_worker_left():
        yield


def moving(step: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {f"fc{i}": generator.standard_normal((80, 60)) * 1.01**step for i in range(4)}


class Kept:
    """An output that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def write(self, report, metrics, wall_time):
        self.rows.append((report.step, {name: value for name, value in metrics.items() if "lag" not in name}))

    def close(self):
        pass


def train(model, monitor, *, every: int = 40, steps: int = 200):
    """Steps after each of which one piece is published, if there is one."""
    for step in range(1, steps + 1):
        for name, weights in moving(step).items():
            model[name][:] = weights
        monitor.step(step)
        for future in monitor._engine.futures(monitor._engine.pending):
            future.result(60)  # so that the pieces of a snapshot are published before the next one
        yield step


def run(**options):
    kept, model, seen = Kept(), moving(0), []
    monitor = ww.Monitor(model, every_n_steps=40, outputs=[kept], on_result=seen.append, **options)
    monitor.start()
    for _ in train(model, monitor):
        pass
    monitor.finish()
    return monitor, kept, seen


def test_a_run_in_pieces_has_the_results_of_a_run_that_waits():
    monitor, kept, seen = run()
    waiting, expected, _ = run(deterministic=True)
    assert list(monitor.history) == list(waiting.history)
    assert kept.rows == expected.rows
    assert [report.step for report in seen] == [0, 40, 80, 120, 160, 200]
    assert monitor.metrics.keys() == waiting.metrics.keys()


def test_the_pieces_of_a_result_take_several_steps():
    """Of which the first adds the report to the history and the last tells the user."""
    model, seen = moving(0), []
    monitor = ww.Monitor(model, every_n_steps=40, on_result=lambda report: seen.append(report.step))
    monitor.start()
    added, told = 0, 0
    for step in train(model, monitor, steps=39):
        added = added or (step if len(monitor.history) else 0)
        told = told or (step if seen else 0)
    monitor.close()
    assert 0 < added < told
    assert told - added >= 5


def test_a_checkpoint_between_two_pieces_holds_whole_results():
    model = moving(0)
    kept = Kept()
    monitor = ww.Monitor(model, every_n_steps=40, outputs=[kept])
    monitor.start()
    for _ in train(model, monitor, steps=60):
        state = monitor.state_dict()
        assert [row[0] for row in kept.rows] == monitor.history.steps
        resumed = ww.Monitor(moving(0), every_n_steps=40)
        resumed.load_state_dict(state)
        assert resumed.state_dict()["history"] == state["history"]
    monitor.close()


@pytest.mark.parametrize("last", range(41, 60, 3))
def test_a_run_that_ends_between_two_pieces_publishes_the_rest(last):
    kept, model = Kept(), moving(0)
    monitor = ww.Monitor(model, every_n_steps=40, outputs=[kept])
    monitor.start()
    for _ in train(model, monitor, steps=last):
        pass
    monitor.finish()
    assert [row[0] for row in kept.rows] == monitor.history.steps == [0, 40, last]


def test_on_result_may_use_the_monitor():
    def use(report):
        states.append(monitor.state_dict())
        monitor.snapshot(monitor.last_step)
        monitor.step(monitor.last_step)

    model, states = moving(0), []
    monitor = ww.Monitor(model, every_n_steps=20, on_result=use)
    monitor.start()
    for _ in train(model, monitor, steps=60):
        pass
    monitor.finish()
    assert len(states) == len(monitor.history) >= 4
    assert monitor.history.steps == sorted(set(monitor.history.steps))


def test_closing_in_on_result_ends_the_monitoring():
    model = moving(0)
    monitor = ww.Monitor(model, every_n_steps=10, on_result=lambda report: monitor.close())
    monitor.start()
    for _ in train(model, monitor, steps=60):
        pass
    assert monitor.closed
    assert monitor.history.steps == [0]


def test_an_error_in_a_piece_ends_no_other_piece():
    def fail(report):
        raise LookupError("no such page")

    model = moving(0)
    monitor = ww.Monitor(model, every_n_steps=10, on_result=fail)
    monitor.start()
    with pytest.warns(RuntimeWarning, match="no such page") as caught:
        list(train(model, monitor, steps=60))
    monitor.finish()
    assert len(caught) == 1
    assert monitor.history.steps[-1] == 60
