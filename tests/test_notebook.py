import json
import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def test_quickstart_is_committed_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
def test_quickstart_runs_from_a_clean_kernel(tmp_path):
    nbformat, preprocessors = pytest.importorskip("nbformat"), pytest.importorskip("nbconvert.preprocessors")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    executor = preprocessors.ExecutePreprocessor(timeout=600, kernel_name="python3")
    executor.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    printed = "".join(
        output["text"] for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"
    )
    assert "0 of 4,500 outputs differ" in printed
    assert (tmp_path / "quickstart-files" / "digits.tflite").exists()
