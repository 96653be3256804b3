"""Models of keras_hub, small: quantized, trained for a step, exported, equal to the runtime (`benchmarks/hub.py`)."""

import pathlib
import sys

import pytest

pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import hub

# One of each kind; the benchmark has all.
NAMES = (
    *("BERT", "DeBERTaV3", "ESM2", "Falcon", "GPT-2", "Whisper", "Moonshine", "CLIP's encoder of texts"),
    *("ViTDet (SAM's encoder)", "SegFormer segmenter", "DeepLabV3 segmenter", "EfficientNet"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_model_ships(name):
    found = hub.measure(name, converter=False)
    assert found["differ"] == 0 and found["outputs"] > 0
    assert found["sqnr"] > 25
