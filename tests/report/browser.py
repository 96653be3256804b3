"""A real browser without a window: Chromium, from the PATH or from `KERAS_QUANT_BROWSER`."""

import os
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Browser:
    """Runs Chromium on files.

    Args:
        command: path of the executable.
        folder: for its profile.
    """

    def __init__(self, command, folder):
        self.command, self.folder = command, folder

    def run(self, path, *options, fragment="", width=1280, height=900, dark=False):
        """Load a page.

        Returns:
            What the browser prints, and the messages of the page's scripts: errors, and what they log.
        """
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        fixed = "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"
        quiet = "--enable-logging=stderr", "--no-first-run", "--disable-extensions", f"--user-data-dir={self.folder}"
        command = [self.command, *fixed, *quiet, scheme, f"--window-size={width},{height}", *options]
        done = subprocess.run(
            [*command, f"{path.as_uri()}{fragment}"], capture_output=True, text=True, timeout=180, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, re.findall(r'CONSOLE[^"]*"(.*)', done.stderr)

    def dom(self, path, **options):
        """The page's HTML after its scripts ran; fails if one of them said anything."""
        html, messages = self.run(path, "--dump-dom", **options)
        assert not messages, messages
        return html

    def screenshot(self, path, picture, **options):
        """The pixels of the page, float `(height, width, 3)` in [0, 1]."""
        from matplotlib.image import imread

        _, messages = self.run(path, f"--screenshot={picture}", **options)
        assert not messages, messages
        return imread(picture)[..., :3]


def find(folder):
    """A `Browser`; skips the test where there is none."""
    named = os.environ.get("KERAS_QUANT_BROWSER")
    command = named or next(filter(None, map(shutil.which, NAMES)), None)
    if command is None or shutil.which(command) is None:
        pytest.skip(
            f"no browser: {named!r} of KERAS_QUANT_BROWSER cannot be run"
            if named
            else "no browser: install Debian's `chromium`, or say where one is in KERAS_QUANT_BROWSER"
        )
    return Browser(command, folder)
