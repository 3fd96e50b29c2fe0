"""Makes the pictures of the documents with the present code: docs/pedestrian.png and docs/web/.

    python -m scripts.doc_pictures [demo] [web]

``demo`` edits the example clip as ``make demo`` does and keeps its contact sheet. ``web`` opens the page in Chromium,
makes the same edit there, and needs the extra ``web``. Without a name, it makes both.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples/pedestrian"
SOURCE_PROMPT = "a person in a black coat over a grey background"
PROMPT = "a person in an orange striped coat and a yellow hat over a grey background"
DESK, PHONE = (860, 900), (390, 1100)
FADE_S = 1.0

sys.path.insert(0, str(ROOT / "tests/support"))


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="demo|web", help="what to make; by default both")
    return parser


def main() -> None:
    """Makes the pictures that are named on the command line."""
    wanted = set(argument_parser().parse_args().pictures) or {"demo", "web"}
    with tempfile.TemporaryDirectory(prefix="loraedit-pictures-") as folder:
        if "demo" in wanted:
            make_demo(Path(folder))
        if "web" in wanted:
            make_web(Path(folder))


def make_demo(folder: Path) -> None:
    """Writes docs/pedestrian.png, the contact sheet of the example."""
    command = [
        sys.executable, "-m", "loraedit", "edit", str(EXAMPLE / "source.mkv"),
        "--first-frame", str(EXAMPLE / "first_frame_edited.png"), "--source-prompt", SOURCE_PROMPT, "--prompt", PROMPT,
        "--out", str(folder / "demo.mp4"), "--run", str(folder / "demo"), "--store", "none",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    shutil.copy(folder / "demo/sheet.png", DOCS / "pedestrian.png")


def make_web(folder: Path) -> None:
    """Writes docs/web/: the mask, a run on a phone in dark mode, and the result."""
    browser, web_client, web_page = (importlib.import_module(n) for n in ("browser", "web_client", "web_page"))
    chromium = browser.find_chromium()
    if chromium is None:
        sys.exit("There is no Chromium on the PATH. Install one.")
    server = web_client.Server(folder / "web").start()
    try:
        with web_page.WebPage(chromium, folder / "profile", timeout_s=1200) as page:
            page.resize(*DESK)
            page.visit(server.address)
            page.give_file("clip-file", shutil.copy(EXAMPLE / "source.mkv", folder / "pedestrian.mkv"))
            page.wait_for("!document.getElementById('clip-shown').hidden")
            page.give_file("edited-file", EXAMPLE / "first_frame_edited.png")
            page.wait_for(web_page.READY)
            show_frame(page, "#mask-player", 14)
            shoot(page, "mask", "[aria-labelledby=h-mask]")
            page.set_value("source_prompt", SOURCE_PROMPT)
            page.set_value("prompt", PROMPT)
            page.set_value("preview_every", 7)
            page.resize(*PHONE, dark=True)
            page.press("start")
            page.wait_for("document.querySelector('.run figcaption')?.textContent.includes('sampling')")
            shoot(page, "phone", ".run")
            page.resize(*DESK)
            page.wait_for("document.querySelector('.run table')")
            show_frame(page, ".run", 5)
            shoot(page, "result", ".run")
    finally:
        server.stop()


def show_frame(page: Any, player: str, frame: int) -> None:
    """Moves a player of the page to a frame."""
    slider = f"document.querySelector('{player} input[type=range]')"
    page.evaluate(f"{slider}.value = {frame}; {slider}.dispatchEvent(new Event('input')); 1")


def shoot(page: Any, name: str, element: str) -> None:
    """Writes a picture of an element of the page once it has faded in; takes it again if the element moved."""
    page.evaluate(f"document.querySelector('{element}').scrollIntoView(); 1")
    time.sleep(FADE_S)
    box = f"document.querySelector('{element}').getBoundingClientRect()"
    place = f"(({{x, y, width}}) => [x, y + scrollY, width].join())({box})"
    before = None
    while before != (before := page.evaluate(place)):
        page.shoot(DOCS / f"web/{name}.png", element)


if __name__ == "__main__":
    main()
