"""Event files that others wrote: a run, or a sentence that says what is wrong, and never another error."""

import json
import random

import pytest
from recorded import record
from tensorboard.compat.proto.event_pb2 import Event

from ww_callbacks.outputs.spectra_protos import PLUGIN
from ww_callbacks.outputs.tensorboard import record as framed
from ww_callbacks.outputs.tensorboard import records
from ww_callbacks.page.api import Api
from ww_callbacks.page.runs import Runs

QUICK, FULL = 60, 10_000


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    record(folder, steps=20)
    (path,) = (folder / "ww").glob("*tfevents*")
    with path.open("rb") as file:
        return list(records(file))


def damaged(data, rng):
    """An event whose content is wrong, while its checksum is right."""
    event = Event.FromString(data)
    own = [value for value in event.summary.value if value.metadata.plugin_data.plugin_name == PLUGIN]
    if own and rng.random() < 0.8:
        value = rng.choice(own)
        content = bytearray(value.tensor.string_val[0])
        choice = rng.random()
        if choice < 0.4:
            content[rng.randrange(len(content))] = rng.randrange(256)
        elif choice < 0.6:
            del content[rng.randrange(len(content)) :]
        else:
            content[:] = rng.choice([b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"layers": [1]}', b"\xff"])
        value.tensor.string_val[0] = bytes(content)
        return event.SerializeToString()
    damaged = bytearray(data)
    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def check(events, folder, seed):
    """Read damaged events and ask for everything; returns whether a problem was said."""
    rng = random.Random(seed)
    chosen = set(rng.sample(range(1, len(events)), rng.randint(1, 3)))
    folder.mkdir(parents=True)
    content = [framed(damaged(data, rng) if index in chosen else data) for index, data in enumerate(events)]
    (folder / "events.out.tfevents.1.host").write_bytes(b"".join(content))
    answer = Api(Runs(folder.parent.parent), "fuzz").answer
    listed = json.loads(answer("api/runs").body)["runs"]
    for run in listed:
        found = answer("api/run", f"id={run['id']}")
        assert found.status == 200, found.body
        for column in json.loads(found.body)["columns"][:4]:
            assert answer("api/column", f"id={run['id']}&name={column['name']}").status in (200, 500)
        for report in range(len(json.loads(found.body)["steps"])):
            assert answer("api/cell", f"id={run['id']}&layer=0&report={report}").status in (200, 500)
    return any(run["problem"] for run in listed)


def test_damaged_events_are_read_or_named(events, tmp_path):
    problems = [check(events, tmp_path / str(seed) / "a" / "ww", seed) for seed in range(QUICK)]
    assert QUICK // 4 < sum(problems) <= QUICK


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_damaged_events_are_read_or_named(events, tmp_path):
    for seed in range(QUICK, FULL):
        folder = tmp_path / str(seed) / "a" / "ww"
        check(events, folder, seed)
        (folder / "events.out.tfevents.1.host").unlink()
