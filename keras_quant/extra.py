"""Libraries that only an extra installs."""

import importlib.util

from keras_quant.errors import ExportError

EXTRAS = {"onnx": ("onnx", "onnxruntime", "tf2onnx")}


def require(extra):
    """Refuse to go on without the libraries of an extra.

    Raises:
        ExportError: with the command that installs them.
    """
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"This needs {', '.join(missing)}, not installed here. Install the extra: pip install 'keras-quant[{extra}]'"
        )
