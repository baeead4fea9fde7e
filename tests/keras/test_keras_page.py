"""What the page shows of a run of Keras."""

import keras
import numpy as np
import pytest

from ww_callbacks.keras import SpectralMonitor
from ww_callbacks.page.runs import Runs

pytestmark = pytest.mark.timeout(120)


def test_the_page_shows_a_run_with_the_losses_of_keras_own_callback(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("keras.callbacks.TensorBoard needs TensorFlow")
    model = keras.Sequential([keras.Input((60,)), keras.layers.Dense(50)])
    model.compile(loss="mse")
    x, y = np.ones((32, 60)), np.ones((32, 50))
    monitor = SpectralMonitor(every_n_steps=4, log_dir=tmp_path / "run", figures=False)
    callbacks = [keras.callbacks.TensorBoard(tmp_path / "run"), monitor]
    model.fit(x, y, epochs=3, batch_size=8, verbose=0, callbacks=callbacks)
    ((_, files, _),) = Runs(tmp_path).listed()
    assert files.problem == ""
    answer = files.run.answer()
    assert answer["steps"] == monitor.history.steps
    alphas = np.array([report.column("alpha") for report in monitor.history], float)
    np.testing.assert_allclose(files.run.column("alpha"), alphas, rtol=1e-6)
    (curve,) = (curve for curve in answer["curves"] if curve["name"].startswith("train: epoch_loss"))
    assert curve["name"] == "train: epoch_loss (steps from its times)"
    assert len(curve["steps"]) == 3
