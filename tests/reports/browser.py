"""A headless Chromium, driven through its own debugging pipe: nothing to install beside the browser itself."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60  # seconds; machines are slow


def chromium():
    """The browser's path; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here: looked for {', '.join(NAMES)}")
    return found


class Browser:
    """One page of one browser. `with Browser() as browser: browser.open(path)`."""

    def __enter__(self):
        browser = chromium()
        self.profile = tempfile.mkdtemp(prefix="gsae-browser-")
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()

        # Chromium reads commands from 3 and writes answers to 4; another Python takes these places and becomes it.
        places = (
            f"import os, sys; a, b = os.dup({commands}), os.dup({answers}); a = os.dup2(a, 100); b = os.dup2(b, 101); "
            "os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", places, browser, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.number, self.buffer, self.session, self.events = 0, b"", None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        os.close(self.commands)
        os.close(self.answers)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method, **parameters):
        """Does a command of the DevTools protocol and gives its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        while b"\0" not in self.buffer:
            data = os.read(self.answers, 1 << 20)
            assert data, "the browser has gone"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path, fragment=""):
        """Opens a file and waits until its script says that it is ready."""
        self.send("Page.navigate", url=Path(path).resolve().as_uri() + fragment)
        self.wait("document.readyState === 'complete' && document.documentElement?.dataset.ready !== undefined")

    def reload(self):
        """Loads the page anew."""
        self.run("document.documentElement.dataset.old = 1")
        self.send("Page.reload")
        self.wait("document.documentElement?.dataset.ready !== undefined && !document.documentElement.dataset.old")

    def run(self, script):
        """What an expression of the page comes to; promises are waited for."""
        found = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition):
        """Until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.02)

    def wait_for(self, fact):
        """Until a function gives something true."""
        deadline = time.monotonic() + PATIENCE
        while not fact():
            assert time.monotonic() < deadline, "never true"
            time.sleep(0.02)

    def press(self, key, code=None):
        """Presses and releases a key."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code or key, **(text if kind == "keyDown" else {})
            )

    def type(self, text):
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def look(self, width, height, dark=False):
        """The size of the window, and whether the reader likes it dark."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path):
        """A picture of the window."""
        Path(path).write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """Errors that the page has logged, refused scripts among them."""
        self.run("0")
        return [e["params"] for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]

    def requests(self):
        """Every address that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
