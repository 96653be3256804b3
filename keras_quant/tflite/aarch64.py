"""LiteRT on an emulated 64-bit Arm: `export/aarch64/setup.sh` makes the folder that this works with."""

import importlib.metadata
import os
import pathlib
import pickle
import subprocess
import tempfile

from keras_quant.errors import EmulatorError
from keras_quant.tflite.runtime import Runtime

FOLDER, CPU = "KERAS_QUANT_AARCH64", "ARM_CPU"
DEFAULT_CPU = "cortex-a76"
_SETUP = "aarch64/setup.sh"


class Emulator:
    """An emulated Arm processor with LiteRT and its NEON kernels; serves any number of models, one after another.

    A context manager; its process also ends with this one's.

    Args:
        cpu: as qemu names it: "cortex-a76" has the dot-product instructions, "cortex-a72" has not. By default what the
            environment variable `ARM_CPU` says, else "cortex-a76".
        folder: what `setup.sh` made; by default what the environment variable `KERAS_QUANT_AARCH64` says, else
            `keras_quant/aarch64` in the user's cache folder.

    Raises:
        EmulatorError: if the folder was not set up or the emulator does not start.
    """

    def __init__(self, cpu=None, folder=None):
        self.cpu = cpu or os.environ.get(CPU) or DEFAULT_CPU
        folder = pathlib.Path(folder or os.environ.get(FOLDER) or default_folder())
        root = folder / "cpus" / self.cpu
        if not (folder / "ready").exists():
            raise EmulatorError(
                f"No emulated Arm in '{folder}'. Set it up once with `bash {setup_script()}` on x86-64 Debian, "
                f"without root, or name its folder in {FOLDER}."
            )
        if not root.is_dir():
            known = ", ".join(sorted(path.name for path in root.parent.iterdir()))
            raise EmulatorError(f"The emulated Arm in '{folder}' has the processors {known}. Received: cpu='{self.cpu}'")
        self._errors = tempfile.TemporaryFile()
        command = [folder / "qemu", "-cpu", self.cpu, "-L", root, root / "usr/bin/python3", folder / "serve.py"]
        environment = {"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", "")}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        except OSError as error:
            raise EmulatorError(
                f"Cannot start '{folder}/qemu': {error.strerror}. Run `bash {setup_script()}` again."
            ) from error
        self._models = 0

    def runtime(self, content, path="model", threads=1):
        """A `Runtime` of a file's bytes whose interpreter runs on the emulated processor."""
        return Runtime(content, path, threads, self.interpreter)

    def interpreter(self, **options):
        """What `ai_edge_litert.interpreter.Interpreter` gives for the same arguments, on the emulated processor."""
        self._models += 1
        return _Interpreter(self, self._models, options)

    def request(self, model, calls):
        """Carry out calls of a model's interpreter in order; returns the list of results.

        Args:
            model: number of the interpreter.
            calls: list of `(method, args, kwargs)`.
        """
        try:
            pickle.dump((model, calls), self._process.stdin, protocol=4)
            self._process.stdin.flush()
            done, answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise EmulatorError(f"The emulated {self.cpu} ended: {self._last_words()}") from error
        if not done:
            raise RuntimeError(answer)
        return answer

    def _last_words(self):
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (status {status}). Run `bash {setup_script()}` again."

    def close(self):
        """End the process; closing its standard input asks for it."""
        if self._process.poll() is None:
            self._process.stdin.close()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Interpreter:
    """Stands for an interpreter in the emulator. What returns nothing waits for the next call that does, to save trips."""

    def __init__(self, emulator, model, options):
        self.emulator, self.model = emulator, model
        self.waiting, self.details = [], {}
        self._ask("open", **options)

    def _ask(self, method, *args, **options):
        calls, self.waiting = [*self.waiting, (method, args, options)], []
        return self.emulator.request(self.model, calls)[-1]

    def _know(self, method):
        if method not in self.details:
            self.details[method] = self._ask(method)
        return self.details[method]

    def allocate_tensors(self):
        self.details = {}
        self._ask("allocate_tensors")

    def get_input_details(self):
        return self._know("get_input_details")

    def get_output_details(self):
        return self._know("get_output_details")

    def _get_ops_details(self):
        return self._know("_get_ops_details")

    def resize_tensor_input(self, *args):
        self.waiting.append(("resize_tensor_input", args, {}))

    def set_tensor(self, *args):
        self.waiting.append(("set_tensor", args, {}))

    def invoke(self):
        self.waiting.append(("invoke", (), {}))

    def get_tensor(self, index):
        return self._ask("get_tensor", index)


def default_folder():
    """Where `setup.sh` puts the emulator unless told otherwise."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "keras_quant/aarch64"


def setup_script():
    """Path of `setup.sh`: in the source tree, or where pip put it."""
    source = pathlib.Path(__file__).resolve().parents[2] / "export" / _SETUP
    if source.exists():
        return source
    try:
        files = importlib.metadata.files("keras-quant") or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    installed = [pathlib.Path(file.locate()).resolve() for file in files if str(file).endswith(_SETUP)]
    return installed[0] if installed else f"export/{_SETUP}"
