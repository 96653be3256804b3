"""Packaging; tools are configured in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "keras_quant/__init__.py").read_text()).group(1)

DEMO = ["scikit-learn>=1.3", "matplotlib>=3.7"]
REPORT = ["matplotlib>=3.7", "pandas>=2"]
ONNX = ["onnx>=1.17", "tf2onnx>=1.16", "onnxruntime>=1.20"]
TEST = [
    *DEMO,
    *REPORT,
    *ONNX,
    "tensorboard>=2.18",
    # With pytest 9.2 `xdist_group` of pytest-xdist 3.8 has no effect, and each worker sets up what is expensive.
    "pytest>=8,<9.2",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "nbconvert>=7",
    "ipykernel>=6",
    "nbformat>=5",
    "ai-edge-quantizer>=0.10",
    "zstandard>=0.22",
]
HUB = ["keras-hub>=0.20"]
BENCH = ["tensorflow-model-optimization>=0.8", "tf_keras>=2.18", "setuptools<81"]

setup(
    name="keras-quant",
    version=VERSION,
    description="Quantization-aware training for Keras 3: what you train is what you ship, bit for bit",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    data_files=[("share/keras_quant/aarch64", ["export/aarch64/setup.sh", "export/aarch64/serve.py"])],
    packages=find_packages(include=["keras_quant", "keras_quant.*", "keras_quant_cli"]),
    package_data={"keras_quant.report": ["page.html", "page.css", "page.js"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.5",
        "numpy>=1.26",
        "flatbuffers>=24.3",
        "ai-edge-litert>=2.1",
        "rich>=13",
        "scipy>=1.11",
    ],
    extras_require={
        "demo": DEMO,
        "report": REPORT,
        "test": TEST,
        "bench": BENCH,
        "hub": HUB,
        "onnx": ONNX,
        "compress": ["zstandard>=0.22"],
        "dev": ["ruff>=0.6"],
    },
    entry_points={"console_scripts": ["keras-quant = keras_quant_cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
