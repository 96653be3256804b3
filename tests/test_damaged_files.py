"""Files with bytes flipped, or cut short: one line that says so, whatever the damage."""

import keras
import numpy as np
import pytest

import keras_quant as kq
from tests.helpers import images, sequential, shake

L = keras.layers


def _damaged(content, seed):
    rng = np.random.default_rng(seed)
    made = np.frombuffer(content, "uint8").copy()
    if seed % 5 == 0:
        return made[: rng.integers(20, len(made))].tobytes()
    places = rng.integers(8, len(made), rng.integers(1, 12))
    made[places] = rng.integers(0, 256, len(places))
    return made.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_inspection_of_a_damaged_file_ends_in_one_line_or_a_report(suffix, tmp_path):
    if suffix == "onnx":
        pytest.importorskip("onnx")
    x = images(4, (6, 6, 3))
    qmodel = kq.quantize(shake(sequential(L.Conv2D(4, 3), L.Flatten(), L.Dense(3), shape=(6, 6, 3))), "int8", x)
    path = tmp_path / f"m.{suffix}"
    kq.export(qmodel, path)
    content, refused = path.read_bytes(), 0
    for seed in range(250):
        path.write_bytes(_damaged(content, seed))
        try:
            if suffix == "tflite":
                kq.tflite.read_model(path)
            else:
                kq.onnx.file.read_model(path)
        except kq.ModelFileError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 25


def test_a_name_that_is_no_text_is_damage(tmp_path):
    x = images(4, (6, 6, 3))
    qmodel = kq.quantize(shake(sequential(L.Conv2D(4, 3, name="first"), shape=(6, 6, 3))), "int8", x)
    path = tmp_path / "m.tflite"
    kq.export(qmodel, path)
    path.write_bytes(path.read_bytes().replace(b"first", b"fi\xffst"))
    for use in (lambda: kq.report(path), lambda: kq.verify(qmodel, path, x, verbose=0)):
        with pytest.raises(kq.ModelFileError, match="damaged. Export or copy it again"):
            use()
