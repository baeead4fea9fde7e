"""Runs the code of one page of the documentation as a script, in an empty folder, and prints its output and its time.

The outputs and the pictures on the pages are made like this:

    python docs/run_page.py docs/stop_a_run.md
    python docs/run_page.py docs/see_a_run.md --picture docs/images/see_a_run.png --link "run=text&layer=2"

With --picture, ww-callbacks writes the page of what the script has left in the folder, and Chromium takes its picture.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=9000"]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for what the script writes; a temporary one if not given")
    parser.add_argument("--picture", type=Path, help="PNG file of the page of the run")
    parser.add_argument("--write", default="serve runs", help="arguments of ww-callbacks that write the page with -o")
    parser.add_argument("--link", default="", help="what the picture shows, such as layer=2&step=300")
    parser.add_argument("--size", default="1280,1000")
    parser.add_argument("--browser", default="chromium")
    arguments = parser.parse_args()
    picture = arguments.picture and arguments.picture.resolve()
    script = "\n".join(CODE.findall(arguments.page.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        Path("script.py").write_text(script, encoding="utf-8")
        started = time.monotonic()
        subprocess.run([sys.executable, "script.py"], check=True)
        print(f"\n{time.monotonic() - started:.0f} s")
        if picture:
            command = [sys.executable, "-m", "ww_callbacks", *arguments.write.split(), "-o", "page.html"]
            subprocess.run(command, check=True)
            address = f"{Path('page.html').resolve().as_uri()}#{arguments.link}"
            take_picture(arguments.browser, address, picture, arguments.size)


def take_picture(browser: str, address: str, picture: Path, size: str) -> None:
    """Write a screenshot of an address, ``size`` in pixels as "width,height"."""
    command = [browser, *FLAGS, f"--window-size={size}", f"--screenshot={picture}", address]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
