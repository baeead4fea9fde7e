"""The monitor gives the same results in every kind of process that users train in."""

from __future__ import annotations

import functools
import textwrap

import pytest
from programs import Session, mappings, session, weights_at

import ww_callbacks as ww

pytestmark = pytest.mark.timeout(120)

# All hosts run this loop. It has no main guard; with deterministic=True the steps do not depend on speed.
LOOP = """
import ww_callbacks as ww
from programs import save, watch, weights_at

model = {"fc": weights_at(0)}
save(watch(ww.Monitor(model, every_n_steps=1, deterministic=True), model))
"""


@pytest.fixture
def host(tmp_path):
    with session(tmp_path) as started:
        yield started


@functools.lru_cache
def expected(steps: int = 3) -> list:
    return [[step, {"fc": ww.analyze({"fc": weights_at(step)})["fc"].alpha}] for step in range(steps + 1)]


def assert_results(host: Session, name: str = "history.json", steps: int = 3) -> None:
    found, wanted = host.json(name), expected(steps)
    assert [step for step, _ in found] == [step for step, _ in wanted]
    for (_, alphas), (_, right) in zip(found, wanted, strict=True):
        assert alphas == pytest.approx(right, rel=1e-9)


def test_script_without_guard(host):
    host.run(LOOP)
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


def test_code_from_stdin(host):
    host.run(LOOP, stdin=True)
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


def test_notebook_kernel_runs_the_cell_twice(host):
    program = host.run(
        f"""
        import os, pathlib
        import nbclient, nbformat

        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({LOOP!r})])
        client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
        results = pathlib.Path(os.environ["WW_TEST_FOLDER"]) / "history.json"
        with client.setup_kernel():
            client.execute_cell(notebook.cells[0], 0)
            results.rename(results.with_name("first.json"))
            client.execute_cell(notebook.cells[0], 0)
        print(notebook.cells[0].outputs)
        """
    )
    assert "ww_callbacks:" not in program.output
    assert_results(host, "first.json")
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


def test_daemonic_process(host):
    host.run(
        """
        import multiprocessing
        import ww_callbacks as ww
        from programs import save, watch, weights_at

        def train():
            assert multiprocessing.current_process().daemon
            model = {"fc": weights_at(0)}
            save(watch(ww.Monitor(model, every_n_steps=1, deterministic=True), model))

        child = multiprocessing.get_context("fork").Process(target=train, daemon=True)
        child.start()
        child.join()
        assert child.exitcode == 0
        """
    )
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


def test_data_loaders_forked_before_and_after_the_start_hold_no_memory(host, lightning):
    program = host.start(
        """
        import torch
        import ww_callbacks as ww
        from programs import outcome, reached, save, told, weights_at
        import time

        def loader():
            data = torch.utils.data.TensorDataset(torch.arange(8.0))
            return torch.utils.data.DataLoader(
                data, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
            )

        before, after = loader(), loader()
        seen = [sum(float(x) for x, in before)]
        model = {"fc": weights_at(0)}
        with ww.Monitor(model, every_n_steps=1, deterministic=True) as monitor:
            monitor.wait_for_first()
            for step in range(1, 4):
                seen += [sum(float(x) for x, in each) for each in (before, after)]
                model["fc"][:] = weights_at(step)
                monitor.step(step)
                if step == 2:
                    reached("both")
                    while not told("looked"):
                        time.sleep(0.01)
        assert seen == [28.0] * 7
        save(outcome(monitor.history))
        """,
        server=lightning,
    )
    program.reaches("both")
    worker = program.worker()
    loaders = [pid for pid in host.processes() if pid not in (worker, program.pid)]
    assert len(loaders) == 4
    assert mappings(program.pid)
    assert [pid for pid in loaders if mappings(pid)] == []
    (host.folder / "looked").touch()
    program.succeed()
    assert_results(host)
    host.assert_nothing_left()


def test_worker_imports_no_modules_from_the_script_folder(host):
    """The modules shadow those of the standard library. The script imports them, the worker does not."""
    source = """
        import os, sysconfig, runpy
        print("garbage at import", flush=True)
        os.write(1, b"more garbage")
        with open(os.path.join(os.environ["WW_TEST_FOLDER"], "importers"), "a") as file:
            file.write(" ".join(open("/proc/self/cmdline").read().split(chr(0))) + chr(10))
        path = os.path.join(sysconfig.get_paths()["stdlib"], "%s.py")
        exec(compile(open(path).read(), path, "exec"))
    """
    (host.folder / "script").mkdir()
    for name in ("statistics", "queue"):
        (host.folder / "script" / f"{name}.py").write_text(textwrap.dedent(source % name))
    program = host.run(LOOP, folder=host.folder / "script")
    assert "garbage" in program.output
    importers = (host.folder / "importers").read_text()
    assert "script.py" in importers
    assert "ww_callbacks.worker" not in importers
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


@pytest.mark.parametrize("moves", [True, False])
def test_working_directory_deleted(host, moves):
    before = f"""
import os, shutil, pathlib
old = pathlib.Path.cwd()
if {moves}:
    os.chdir(old.parent)
shutil.rmtree(old)
"""
    host.run(before + LOOP, folder=host.folder / "old")
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


@pytest.mark.parametrize("shell", [">&-", "<&- >&- 2>&-"])
def test_standard_streams_closed(host, shell):
    """As in a daemon: descriptors 0 to 2 are free, so the first opened files get them."""
    host.run(LOOP, shell=shell)
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


@pytest.mark.parametrize("noise", ["print('noise')", "import os; os.write(1, b'noise')"])
def test_noise_on_stdout_at_interpreter_startup(host, noise):
    """A sitecustomize module prints in the trainer and in the worker."""
    (host.folder / "site").mkdir()
    for name in ("sitecustomize", "usercustomize"):
        (host.folder / "site" / f"{name}.py").write_text(noise + "\n")
    (host.folder / "site" / "startup.py").write_text(noise + "\n")
    environment = {"PYTHONSTARTUP": str(host.folder / "site" / "startup.py")}
    program = host.run(LOOP, path=(host.folder / "site",), environment=environment)
    assert "noise" in program.output
    assert "ww_callbacks:" not in program.output
    assert_results(host)
    host.assert_nothing_left(had_memory=False)


def test_two_monitors_in_one_process(host):
    program = host.start(
        """
        import time
        import ww_callbacks as ww
        from programs import outcome, reached, save, told, weights_at

        models = [{"fc": weights_at(0)}, {"fc": weights_at(0)}]
        monitors = [ww.Monitor(model, every_n_steps=1, deterministic=True) for model in models]
        with monitors[0], monitors[1]:
            for step in range(1, 4):
                for model, monitor in zip(models, monitors):
                    model["fc"][:] = weights_at(step)
                    monitor.step(step)
            reached("stepped")
            while not told("looked"):
                time.sleep(0.01)
        save(outcome(monitors[0].history), "0.json")
        save(outcome(monitors[1].history), "1.json")
        """
    )
    program.reaches("stepped")
    assert len(host.workers()) == 2
    assert len(host.memory()) == 2
    (host.folder / "looked").touch()
    program.succeed()
    assert_results(host, "0.json")
    assert_results(host, "1.json")
    host.assert_nothing_left()


@pytest.mark.slow
def test_spawned_by_torch_multiprocessing(host):
    host.run(
        """
        import ww_callbacks as ww
        from programs import save, watch, weights_at

        def train(rank):
            model = {"fc": weights_at(0)}
            save(watch(ww.Monitor(model, every_n_steps=1, deterministic=True), model), f"{rank}.json")

        if __name__ == "__main__":
            import torch.multiprocessing

            torch.multiprocessing.spawn(train, nprocs=1)
        """
    )
    assert_results(host, "0.json")
    host.assert_nothing_left(had_memory=False)


def test_callback_works_with_both_distributions_of_lightning(host, lightning):
    host.run(
        """
        import lightning.pytorch
        import pytorch_lightning
        import torch
        import ww_callbacks as ww
        from ww_callbacks.lightning import SpectralMonitor
        from programs import fit, outcome, save

        for distribution in ("lightning.pytorch", "pytorch_lightning"):
            callback = SpectralMonitor(every_n_steps=5, deterministic=True)
            trainer = fit(callback, distribution=distribution, steps=10)
            assert type(trainer).__module__.startswith(distribution), type(trainer)
            final = ww.analyze(trainer.lightning_module)
            name = distribution.partition(".")[0]
            save([outcome(callback.history), {layer.name: layer.alpha for layer in final}], f"{name}.json")
            assert abs(float(trainer.callback_metrics["ww/alpha"]) - final.summary()["alpha"]) < 1e-4
        """,
        server=lightning,
    )
    for name in ("lightning", "pytorch_lightning"):
        history, final = host.json(f"{name}.json")
        assert [step for step, _ in history] == [0, 5, 10]
        assert history[-1][1]["net.0"] == pytest.approx(final["net.0"], rel=1e-9)
        assert (history[-1][1]["net.2"], final["net.2"]) == (None, None)  # 4 eigenvalues
    host.assert_nothing_left(had_memory=False)
