"""Every model of `keras.applications`, at the smallest input it takes, and pictures for it."""

import importlib
import inspect
import re

import keras
import numpy as np

# The smallest of the families that have several.
SMALLEST = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
)
# What the signature of a classifier is known by.
ARGUMENTS = {"weights", "input_shape", "classes"}
# Numbers in a batch of pictures on which weights are set and ranges calibrated.
PIXELS, MOST, LEAST = 2**19, 128, 4


def constructors():
    """Names of the constructors: those functions of `keras.applications` that make a classifier."""
    functions = {name: f for name, f in vars(keras.applications).items() if inspect.isfunction(f)}
    return sorted(name for name, f in functions.items() if set(inspect.signature(f).parameters) >= ARGUMENTS)


def family(name):
    """Of a constructor: the Keras module it comes from; VGG has two."""
    return re.sub("1[69]$", "", _module(name).__name__.rsplit(".", 1)[-1])


def smallest():
    """The smallest constructor of each family: dict from family to name."""
    families = {}
    for name in constructors():
        if family(name) not in families or name in SMALLEST:
            families[family(name)] = name
    return families


def build(name, size=None, **arguments):
    """The float model with fresh weights that gives logits.

    Args:
        name: of the constructor.
        size: height and width; by default the smallest that the constructor takes.
    """
    size = size or smallest_size(name)
    return _make(name, size, classifier_activation=None, **arguments)


def smallest_size(name):
    """Height and width: constructors name the bound when it is violated. NASNet's cells are made for its default only."""
    if family(name) == "nasnet":
        return 224 if name == "NASNetMobile" else 331
    try:
        _make(name, 8)
    except ValueError as error:
        found = re.search(r"at least (\d+)", str(error))
        if found:
            return int(found[1])
    return 32


def pictures(name, size, count, seed):
    """Random pictures as the model takes them: detail at every scale, as photographs have it, then `preprocess_input`.

    Args:
        name: of the constructor.
        size: height and width.
        count: of pictures.
        seed: of the random generator.
    """
    rng = np.random.default_rng(seed)
    field = np.zeros((count, size, size, 3), "float32")
    for scale in (1, 2, 4, 8, 16, 32, size):
        coarse = rng.standard_normal((count, scale, scale, 3)).astype("float32")
        field += np.asarray(keras.ops.image.resize(coarse, (size, size), interpolation="bicubic")) / scale**0.5
    pixels = np.clip(127.5 + 45 * field, 0, 255).astype("float32")
    return np.asarray(_module(name).preprocess_input(pixels), "float32")


def enough(size):
    """How many pictures set weights and ranges: many small ones, few large ones."""
    return int(np.clip(PIXELS // size**2, LEAST, MOST))


def _make(name, size, **arguments):
    return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), **arguments)


def _module(name):
    return importlib.import_module(getattr(keras.applications, name).__module__)
