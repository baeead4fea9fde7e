from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.following import cluster


class Counting(ThreadPoolExecutor):
    """Counts the tasks that are not done."""

    running = most = 0

    def submit(self, function, /, *arguments, **others):
        self.running += 1
        self.most = max(self.most, self.running)
        future = super().submit(function, *arguments, **others)
        future.add_done_callback(lambda _: setattr(self, "running", self.running - 1))
        return future


def test_a_limited_number_of_tasks_is_submitted_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "IN_FLIGHT", 2)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "step-1.npz", **{f"fc{i}.weight": rng.standard_normal((60 + i, 50)) for i in range(7)})
    with Counting(1) as executor:
        (report,) = ww.follow(tmp_path, once=True, figures=False, executor=executor)
    assert [layer.status for layer in report] == ["ok"] * 7
    assert executor.most == 2


def test_an_error_that_is_sent_to_the_client_has_no_cause():
    def read():
        try:
            raise OSError("the answer of a server")
        except OSError as error:
            raise ww.WeightsFileError("s3://bucket/step-1.npz", "cannot be read") from error

    with pytest.raises(ww.WeightsFileError, match=r"^s3://bucket/step-1\.npz: cannot be read$") as caught:
        cluster.read_and_run(read, {})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
