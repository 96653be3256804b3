import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
# What each notebook writes, and what it prints where nothing differs from `predict`.
NOTEBOOKS = {
    "quickstart": ("quickstart-files/digits.tflite", ["0 of 4,500 outputs differ"]),
    "wake_word": ("wake-word-files/wake_word.tflite", ["0 of 3,200 outputs differ", "recording: 0 of "]),
}


def test_each_notebook_is_known():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_without_outputs(name):
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_from_a_clean_kernel(name, tmp_path):
    nbformat, preprocessors = pytest.importorskip("nbformat"), pytest.importorskip("nbconvert.preprocessors")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    executor = preprocessors.ExecutePreprocessor(timeout=600, kernel_name="python3")
    executor.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    printed = "".join(
        output["text"] for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"
    )
    file, lines = NOTEBOOKS[name]
    assert [line for line in lines if line not in printed] == []
    assert (tmp_path / file).exists()
