"""The one family of exceptions: every message says where, what, and the way out."""


class QuantizationError(ValueError):
    """Base of all errors that keras_quant raises about a model, its data or a file."""


class UnsupportedLayerError(QuantizationError):
    """A layer or operation has no quantized form, or cannot be traced."""


class CalibrationError(QuantizationError):
    """Calibration data is empty, not finite, of the wrong shape, or was never given."""


class ExportError(QuantizationError):
    """A model cannot be written as an integer file."""


class ModelFileError(QuantizationError):
    """A file is not a model that the runtime can load."""


class RangesApartWarning(UserWarning):
    """What shares a grid, tensors or values of one, lies so far apart that what is close to zero keeps few steps."""


class EmulatorError(QuantizationError):
    """The emulated Arm processor was not set up, or ended."""
