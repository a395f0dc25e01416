"""Chromium, headless, over the plain WebDriver protocol (https://www.w3.org/TR/webdriver2/) that Debian's chromedriver speaks."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which WebDriver names an element
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
KEYS = {"enter": "\ue007", "tab": "\ue004"}


class Browser:
    """A browser with one window; a context manager. Raises RuntimeError for whatever chromedriver refuses."""

    def __enter__(self) -> Browser:
        assert DRIVER and CHROMIUM, "there is no chromium with a chromedriver"
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.root = f"http://127.0.0.1:{self._port()}/session"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={self.profile.name}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._send("", {"capabilities": {"alwaysMatch": wanted}})
        self.root += f"/{made['sessionId']}"
        self.size(1440, 900)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        assert self.driver.stdout
        self.driver.stdout.close()
        self.profile.cleanup()

    def _port(self) -> str:
        assert self.driver.stdout
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return found[1]
        raise RuntimeError("chromedriver did not start")

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(asked, timeout=60) as answer:
                return json.load(answer)["value"]
        except OSError as e:
            said = e.read().decode()[:600] if hasattr(e, "read") else str(e)
            raise RuntimeError(f"{method} {path}: {said}") from e

    def open(self, path: Path, address: str = "") -> None:
        self._send("/url", {"url": "about:blank"})  # so that another address of the same file is loaded anew
        self._send("/url", {"url": path.resolve().as_uri() + address})

    def run(self, script: str, *arguments: object) -> Any:
        """What `return ..` in a script gives."""
        return self._send("/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, css: str) -> str:
        found = self._send("/element", {"using": "css selector", "value": css})
        return str(found[ELEMENT])

    def texts(self, css: str) -> list[str]:
        """The text of every element that matches, as it is seen."""
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())", css))

    def click(self, css: str) -> None:
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", css)
        self._send(f"/element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Replace what is in a field, key by key."""
        at = self.find(css)
        self._send(f"/element/{at}/clear", {})
        self._send(f"/element/{at}/value", {"text": text})

    def press(self, key: str) -> None:
        """One key, to whatever has the focus."""
        value = KEYS.get(key, key)
        keys = [{"type": kind, "value": value} for kind in ("keyDown", "keyUp")]
        self._send("/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def choose(self, css: str, value: str) -> None:
        """Take an option of a select."""
        self.click(f'{css} option[value="{value}"]')

    def devtools(self, command: str, **parameters: object) -> Any:
        return self._send("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width: int, height: int) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, scheme: str) -> None:
        """What the system says of light and dark."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def media(self, kind: str) -> None:
        """`print`, or nothing for the screen."""
        self.devtools("Emulation.setEmulatedMedia", media=kind)

    def complaints(self) -> list[str]:
        """What the browser has logged since it was asked last: errors, warnings, anything."""
        return [entry["message"] for entry in self._send("/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self._call("GET", "/screenshot"))
