r"""Makes the moving picture of the live page: a recorded run grows again, and a few clicks follow.

Requires Chromium and a run, such as that of a page of the documentation:

    python docs/run_page.py docs/find_what_is_wrong.md --keep found
    python docs/moving.py found/runs/wrong docs/images/page.gif
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from screenshot import Browser

from ww_callbacks.outputs.spectra_protos import REPORT
from ww_callbacks.page.api import Api
from ww_callbacks.page.events import EventFollower, event_in
from ww_callbacks.page.runs import Runs
from ww_callbacks.page.server import PageServer

SIZE = (1020, 660)
FRAMES = 44
"""At most this many show the run as it grows."""
FRAME, STILL, END = 110, 500, 1500
"""Milliseconds of a frame while the run grows, after a click, and at the end."""
COLORS = 255
PLACE = "(e) => { const { x, y, width, height } = e.getBoundingClientRect(); return [x, y, width, height] }"
CLOCK = "Date.now = () => window.now ?? 0"
"""The page's clock, which stands at the time of the recording: the run is live again."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of the recording.

    Attributes:
        time: when, in seconds since the epoch.
        step: of the latest report.
        sizes: event file → its size at that time.
    """

    time: float
    step: int
    sizes: dict[Path, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--browser", default="chromium")
    arguments = parser.parse_args()
    moments = moments_of(arguments.run)
    every = -(-len(moments) // FRAMES)
    with tempfile.TemporaryDirectory() as folder, Browser(arguments.browser) as browser:
        copy = Path(folder) / arguments.run.name
        grow(arguments.run, copy, moments[0])
        with served(Path(folder)) as address:
            browser.open(address, *SIZE, before=CLOCK)
            frames = [
                (picture, FRAME)
                for picture in growing(browser, arguments.run, copy, moments[every::every], moments[-1])
            ]
            frames += [(picture, STILL) for picture in clicks(browser)]
    frames[-1] = (frames[-1][0], END)
    write(arguments.picture, frames)


def moments_of(run: Path) -> list[Moment]:
    """The moments at which a report came."""
    sizes: dict[Path, int] = {}
    events = []
    for path in run.rglob("*tfevents*"):
        time = 0.0
        for place, data in EventFollower(path).poll():
            event = event_in(data)
            time = max(time, event.wall_time)  # results come later than their snapshots
            events.append((time, event, path, place.offset + place.length + 4))  # a checksum follows
    events.sort(key=lambda each: each[0])
    moments = []
    for time, event, path, end in events:
        sizes[path] = end
        if any(value.tag == REPORT for value in event.summary.value):
            moments.append(Moment(time, event.step, dict(sizes)))
    return [*moments[:-1], Moment(moments[-1].time, moments[-1].step, sizes)]


def grow(run: Path, copy: Path, moment: Moment) -> None:
    """Make the event files of a copy as long as they were at a moment."""
    for path, size in moment.sizes.items():
        target = copy / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, target.open("ab") as file:
            source.seek(file.tell())
            file.write(source.read(size - file.tell()))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of the runs in a folder; its address."""
    with PageServer(Api(Runs(folder), "runs")) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def growing(browser: Browser, run: Path, copy: Path, moments: list[Moment], last: Moment) -> Iterator[bytes]:
    """A picture of the page at each moment."""
    for moment in [*moments, last]:
        grow(run, copy, moment)
        browser.run(f"window.now = {1000 * moment.time + 900}")
        browser.wait_for(f"document.querySelector('.state')?.textContent.includes('step {moment.step:,},')")
        browser.wait_for(f"document.querySelector('.step input')?.value === '{moment.step:,}'")
        browser.wait_for("document.querySelector('.judgement') !== null")
        settle(browser)
        yield browser.picture()


def clicks(browser: Browser) -> Iterator[bytes]:
    """Pictures of what a few clicks on the map show: a layer over the steps, then two others."""
    left, top, width, height = browser.run(f"({PLACE})(document.querySelector('.map .u-over'))")
    for share, row in ((0.06, 0.5), (0.2, 0.5), (0.45, 0.5), (0.7, 0.5), (0.95, 0.7), (0.95, 0.3)):
        browser.move(left + share * width, top + row * height)
        browser.click(left + share * width, top + row * height)
        settle(browser)
        yield browser.picture()


def settle(browser: Browser) -> None:
    """Wait until what was asked for is drawn."""
    browser.run("window.settled = 0; setTimeout(() => requestAnimationFrame(() => { window.settled = 1 }), 400)")
    browser.wait_for("window.settled === 1")


def write(path: Path, frames: list[tuple[bytes, int]]) -> None:
    """Write an animated picture whose frames share their colours, so that text does not flicker."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in frames]
    some = pictures[:: max(1, len(pictures) // 6)] + pictures[-1:]
    sheet = Image.new("RGB", (SIZE[0], SIZE[1] * len(some)))
    for i, each in enumerate(some):
        sheet.paste(each, (0, i * SIZE[1]))
    colors = sheet.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    first, *others = (each.quantize(palette=colors, dither=Image.Dither.NONE) for each in pictures)
    durations = [duration for _, duration in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


if __name__ == "__main__":
    main()
