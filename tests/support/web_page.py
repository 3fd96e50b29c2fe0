"""Opens the web page in a real browser."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

from browser import Page

READY = "document.getElementById('mask-status').textContent.startsWith('The mask is ready')"


class WebPage(Page):
    """Controls a browser that has the page open."""

    def visit(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")
        self.wait_for("document.getElementById('set-model').children.length > 0")

    def wait_for(self, expression: str) -> None:
        """Waits until an expression is true, without using the processor meanwhile."""
        while not self.evaluate(f"Boolean({expression})"):
            self._check_time(expression)
            time.sleep(0.2)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def give_file(self, element: str, path: Path) -> None:
        """Chooses a file in an input, as a person would."""
        found = self.call("Runtime.evaluate", expression=f"document.getElementById('{element}')")["result"]
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["objectId"])

    def press(self, element: str) -> None:
        self.wait_for(f"!document.getElementById('{element}').disabled")
        self.evaluate(f"document.getElementById('{element}').click()")

    def set_value(self, setting: str, value: object) -> None:
        field = f"document.querySelector('[data-setting={setting}]')"
        self.evaluate(f"{field}.value = '{value}'; {field}.dispatchEvent(new Event('input', {{bubbles: true}})); 1")

    def click_picture(self, selector: str, x: float, y: float) -> None:
        """Clicks at a relative position (0 to 1) in an element."""
        element = f"document.querySelector('{selector}')"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}}); 1")
        box = json.loads(self.evaluate(f"JSON.stringify({element}.getBoundingClientRect())"))
        place = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.awaited("fetch('/api/state').then((answer) => answer.json())")
        return state

    def fetched(self, path: str) -> bytes:
        """Returns what a link of the page downloads."""
        text: str = self.awaited(
            f"fetch('{path}').then((answer) => answer.blob()).then((blob) => new Promise((resolve) => {{"
            "const reader = new FileReader(); reader.onload = () => resolve(reader.result.split(',')[1]);"
            "reader.readAsDataURL(blob); }))"
        )
        return base64.b64decode(text)

    def awaited(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"]["value"]

    def axe(self, script: Path) -> list[list[str]]:
        """Returns impact, name and place of each fault that axe-core finds."""
        self.evaluate(script.read_text())
        found = "axe.run().then((r) => JSON.stringify(r.violations.map((v) => [v.impact, v.id, v.nodes[0].html])))"
        faults: list[list[str]] = json.loads(self.awaited(found))
        return faults

    def shoot(self, path: Path, element: str | None = None) -> None:
        """Takes a picture of the whole page, or of an element."""
        clip: dict[str, Any] = {}
        if element:
            find = f"document.querySelector('{element}').getBoundingClientRect()"
            box = json.loads(self.evaluate(f"JSON.stringify({find})"))
            top = self.evaluate("scrollY")
            clip = {"clip": {"x": 0, "y": top + box["y"], "width": self.evaluate("innerWidth"), "scale": 1}}
            clip["clip"]["height"] = box["height"]
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **clip)["data"]
        path.write_bytes(base64.b64decode(data))
