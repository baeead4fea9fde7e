"""Analyses layers of checkpoints, or compares them with earlier ones: in worker processes, or on an executor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.analysis.earlier import stacked_spec
from ww_callbacks.following.cluster import Job, run_on
from ww_callbacks.following.stored import Selection, place_of, read_layer, read_rows
from ww_callbacks.following.work import Work
from ww_callbacks.models.run import Analysed, Workers
from ww_callbacks.progress import Bar, progress_bar
from ww_callbacks.weights import Layer
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.worker.protocol import Message
from ww_callbacks.worker.submits import memory_of
from ww_callbacks.worker.task import make_task


class Runner:
    """Runs tasks for the layers of checkpoints. Worker processes are kept while checkpoints have the same layers.

    Args:
        work: how layers are analysed.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._workers: Workers | None = None
        self.selection = Selection(work.layers, work.split)

    @property
    def takes_all(self) -> bool:
        """Whether it gets all layers of a checkpoint at once, to spread them over the workers of an executor."""
        return self._work.executor is not None

    def analyse(
        self, path: Location, layers: Mapping[int, Layer], model: Sequence[LayerSpec], bar: Bar
    ) -> dict[int, Analysed]:
        """Analyse layers.

        Args:
            path: of the checkpoint.
            layers: position → layer.
            model: descriptions of all layers of the checkpoint that are analysed.
            bar: of the progress.

        Raises:
            WeightsFileError: a layer cannot be read.
            OSError: it is gone, or the executor has failed.
        """
        jobs = {}
        for position, layer in layers.items():
            assert layer.spec is not None
            assert layer.read is not None
            elsewhere = partial(read_layer, place_of(path), layer.name, self.selection)
            read = layer.read if self._work.executor is None else elsewhere
            task = make_task(layer.spec, self._work.settings, None)
            jobs[position] = Job(layer.spec, read, task, memory_of(layer.spec))
        return self._run(jobs, model, bar)

    def compare(
        self,
        paths: Sequence[Location],
        step: int,
        tasks: Mapping[int, tuple[LayerSpec, Message]],
        model: Sequence[LayerSpec],
    ) -> dict[int, Analysed]:
        """Compare layers with those of earlier checkpoints.

        Args:
            paths: of the checkpoints.
            step: of the first of them.
            tasks: position → layer, and task of :func:`ww_callbacks.worker.task.make_comparison`.
            model: descriptions of all layers of the first of them that are analysed.

        Raises:
            OSError: the executor has failed.
        """
        jobs = {}
        places = [place_of(path) for path in paths]
        for position, (spec, task) in tasks.items():
            stacked, read = stacked_spec(spec, len(paths)), partial(read_rows, places, spec, self.selection)
            jobs[position] = Job(stacked, read, task, stacked.nbytes + memory_of(spec) * 2 // 3)
        title, total = f"step {step}, changes", sum(job.spec.work for job in jobs.values())
        with progress_bar(title, total, shown=self._work.progress) as bar:
            return self._run(jobs, model, bar)

    def close(self) -> None:
        """Stop the worker processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _run(self, jobs: Mapping[int, Job], model: Sequence[LayerSpec], bar: Bar) -> dict[int, Analysed]:
        if self._work.executor is not None:
            return run_on(self._work.executor, jobs, bar)
        layers = {each: Layer(job.spec.name, job.spec.kind, job.spec, job.read) for each, job in jobs.items()}
        return self._workers_for(model).run(layers, {each: job.task for each, job in jobs.items()}, bar)

    def _workers_for(self, model: Sequence[LayerSpec]) -> Workers:
        """The worker processes for a model, with room for what is done with its layers."""
        counts = (2, 3) if self._work.updates else ()
        specs = [*model, *(stacked_spec(spec, count) for count in counts for spec in model)]
        if self._workers is None or not self._workers.fit(specs):
            self.close()
            self._workers = Workers(specs, min(self._work.workers, len(model)))
        return self._workers
