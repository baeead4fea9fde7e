"""The callbacks built by LightningCLI: from YAML, from the command line, with typed arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonargparse")
pytest.importorskip("torch")
cli = pytest.importorskip("pytorch_lightning.cli")

from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel  # noqa: E402

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.lightning import LayerwiseLearningRate, SpectralEarlyStopping, SpectralMonitor  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "callbacks.yaml"
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.limit_val_batches=0",
]


@pytest.fixture(autouse=True)
def no_other_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])


def run(*arguments: str, **options: Any) -> Any:
    return cli.LightningCLI(
        BoringModel,
        BoringDataModule,
        args=[*arguments],
        seed_everything_default=0,
        save_config_callback=None,
        **options,
    )


def test_a_training_with_the_three_callbacks_of_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = run("fit", f"--config={EXAMPLE}", "--trainer.max_steps=6", *QUIET)
    monitor, stopping, rates = made.trainer.callbacks[:3]
    assert isinstance(monitor, SpectralMonitor)
    assert isinstance(stopping, SpectralEarlyStopping)
    assert isinstance(rates, LayerwiseLearningRate)
    assert made.trainer.global_step == 6
    assert monitor.history.steps == [0, 6]
    assert set(monitor.published.verdicts) == {"stop", "lr_ratio"}
    assert ww.read_jsonl(tmp_path / "ww_history.jsonl").steps == [0, 6]


def test_a_callback_added_on_the_command_line() -> None:
    made = run(
        "--trainer.callbacks+=ww_callbacks.lightning.SpectralMonitor",
        "--trainer.callbacks.every_n_steps=7",
        "--trainer.callbacks.layers=[net.*, '!net.0']",
        "--trainer.callbacks.budget=30s",
        "--trainer.callbacks.prefix=actor",
        "--trainer.callbacks+=ww_callbacks.lightning.SpectralEarlyStopping",
        "--trainer.callbacks.verbose=false",
        *QUIET,
        run=False,
    )
    monitor, stopping = made.trainer.callbacks[:2]
    assert (monitor.every_n_steps, monitor.budget, monitor.prefix) == (7, "30s", "actor")
    assert stopping.verbose is False
    assert list(monitor.layers) == ["net.*", "!net.0"]


@pytest.mark.parametrize(
    "argument",
    ["every_n_steps=often", "on_error=drop", "workers=1.5", "randomize=perhaps", "no_such_argument=1"],
)
def test_values_of_a_wrong_kind_are_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--trainer.callbacks+=ww_callbacks.lightning.SpectralMonitor", f"--trainer.callbacks.{argument}", run=False)
    assert argument.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("callback", "lines"),
    [
        ("SpectralMonitor", ["(type: int | null, default: null)", "{warn,raise}", "wait for pending results"]),
        ("SpectralEarlyStopping", ["patience", "(type: int, default:"]),
        ("LayerwiseLearningRate", ["{linear,sqrt,log2,rank,sigmoid}", "(type: float, default: 0.5)"]),
    ],
)
def test_help_shows_the_arguments_with_their_types(
    callback: str, lines: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        run(f"--trainer.callbacks.help=ww_callbacks.lightning.{callback}", run=False)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [line for line in lines if line not in shown] == []
