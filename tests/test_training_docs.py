"""The examples of `docs/training.md` run as they stand."""

import pathlib
import re

import pytest

import keras_quant as kq

DOC = pathlib.Path(__file__).parents[1] / "docs" / "training.md"


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, DOC.name, "exec"), names)
    assert names["history"]["loss"][-1] < names["history"]["loss"][0]
    qmodel = names["start"]()
    kq.export(qmodel, "other.tflite")
    assert kq.verify(qmodel, "other.tflite", names["x"][:32], verbose=0).equal
