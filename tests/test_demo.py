import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_demo_ships_a_model_that_equals_keras(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "keras_quant_cli", "demo", "--output", folder], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row[1].strip(): row[2:6] for row in (line.split("│") for line in done.stdout.splitlines()) if len(row) == 7}
    assert rows["outputs that differ from Keras"][3].strip() == "0 of 4,500"
    assert rows["tensors inside that differ"][3].strip().startswith("0 of ")
    float_accuracy, _, accuracy, file_accuracy = (
        float(cell.strip().rstrip("%")) for cell in rows["accuracy on the held-out digits"]
    )
    assert float_accuracy > 97 and accuracy > float_accuracy - 1 and file_accuracy == accuracy
    float_bytes, file_bytes = (int(cell.strip().replace(",", "")) for cell in rows["bytes"][1::2])
    assert file_bytes == (folder / "digits.tflite").stat().st_size < float_bytes / 2
    taken, total = map(int, re.findall(r"\d+", rows["operators on XNNPACK"][3]))
    assert taken == total and rows["partitions"][3].strip() == "1"
    for name in ("digits.keras", "digits.html", "digits-float.tflite"):
        assert (folder / name).stat().st_size > 1000
