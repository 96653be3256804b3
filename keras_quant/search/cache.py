"""What a search has measured, kept in a file as it goes, so that one that was stopped goes on where it was."""

import json
import pathlib
import time
import warnings

from keras_quant.tflite.file import write_atomically

# Seconds between two writings.
INTERVAL = 20


class Cache:
    """Figures by name, in sections; on disk as JSON if there is a path.

    Args:
        path: of the file, or `None` to keep them in memory only.
        fingerprint: text that tells the model and the policies apart from others. A file with another one, or a damaged
            one, is measured anew, which is said once.
    """

    def __init__(self, path, fingerprint):
        self.path = None if path is None else pathlib.Path(path)
        self.fingerprint = fingerprint
        self.sections = self._read()
        self._written = time.monotonic()

    def get(self, section, name, count):
        """A list of `count` finite numbers, or `None` if it is not there."""
        values = self.sections.get(section, {}).get(name)
        whole = isinstance(values, list) and len(values) == count and all(map(_is_finite, values))
        if values is not None and not whole:
            self._damaged("holds values that are no numbers")
            self.sections = {}
        return values if whole else None

    def put(self, section, name, values):
        """Keep a list of numbers; writes the file now and then."""
        self.sections.setdefault(section, {})[name] = [float(value) for value in values]
        if time.monotonic() - self._written > INTERVAL:
            self.write()

    def write(self):
        """Write the file, atomically."""
        self._written = time.monotonic()
        if self.path is not None:
            content = {"fingerprint": self.fingerprint, "sections": self.sections}
            write_atomically(self.path, json.dumps(content).encode())

    def _read(self):
        if self.path is None or not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_bytes())
            sections = {name: dict(section) for name, section in content["sections"].items()}
            known = content["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return self._damaged(f"cannot be read ({type(error).__name__})")
        return sections if known == self.fingerprint else self._damaged("belongs to another model or other data")

    def _damaged(self, how):
        warnings.warn(f"The search's cache '{self.path}' {how}; everything is measured anew.", stacklevel=2)
        return {}


def _is_finite(value):
    return isinstance(value, (int, float)) and abs(value) < float("inf")
