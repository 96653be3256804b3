"""Old phones: exported files on the oldest runtimes that pip still installs, and on the newest."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.tflite import Runtime
from keras_quant.tflite.flatbuffer import parse
from tests.helpers import images, sequential
from tests.runtimes.shipped import SAMPLES, File, differences, operators_in, single_operators, whole

# One process makes the networks for all.
pytestmark = pytest.mark.xdist_group("shipped")
L = keras.layers
HERE = pathlib.Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs/runtimes.md"
# Kept from run to run.
ENVIRONMENTS = pathlib.Path(tempfile.gettempdir()) / "keras_quant_runtimes"
# The last Python that the oldest have wheels for; they were compiled for NumPy 1.
OLD_PYTHONS = ["python3.11", "python3.10", "python3.9"]
RUNTIMES = {
    "tflite-runtime==2.14.0": (OLD_PYTHONS, "numpy<2"),
    "ai-edge-litert==1.0.1": (OLD_PYTHONS, "numpy<2"),
    "ai-edge-litert==2.1.0": ([sys.executable], "numpy"),
    "ai-edge-litert": ([sys.executable], "numpy"),
}

# Operators that LiteRT 1.0.1 rounds otherwise here and there, see `docs/runtimes.md`.
OTHERWISE_THERE = {"BATCH_MATMUL", "MEAN"}


def python_with(runtime):
    """Path of a Python that has the runtime; skips where it cannot be had."""
    pythons, numpy = RUNTIMES[runtime]
    executable = next((found for name in pythons if (found := shutil.which(name)) and works(found)), None)
    if executable is None:
        pytest.skip(f"{runtime} needs one of {', '.join(pythons)}")
    folder = ENVIRONMENTS / re.sub(r"\W+", "_", runtime)
    python = folder / "bin/python"
    for command in (
        [executable, "-m", "venv", folder] if not python.exists() else [python, "--version"],
        [python, "-m", "pip", "install", "-q", "--upgrade", runtime, numpy],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot install {runtime}: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return python


def works(python):
    """A name on the path may be a version manager's stand-in for a Python that is not there."""
    return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


def run(python, files, folder):
    """Outputs of each `File` on another Python's runtime; an error's text where it refuses the file."""
    arrays = {}
    for number, file in enumerate(files):
        arrays[f"{number}"] = np.frombuffer(file.content, np.uint8)
        arrays |= {f"{number}/{i}": array for i, array in enumerate(file.inputs)}
    np.savez(folder / "in.npz", **arrays)
    command = [python, HERE / "run_files.py", folder / "in.npz", folder / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = np.load(folder / "out.npz")
    return [
        str(made[f"{number}/error"])
        if f"{number}/error" in made.files
        else [made[f"{number}/{i}"] for i in range(len(file.outputs))]
        for number, file in enumerate(files)
    ]


def documented():
    """The table of `docs/runtimes.md`: for each operator by how many steps tflite-runtime 2.14.0 differs."""
    rows = re.findall(r"^\| ([A-Z0-9_]+) \|[^|]+\| (equal|up to (\d)) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return {name: int(steps or 0) for name, _, steps in rows}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["ai-edge-litert==1.0.1", "ai-edge-litert"])
def test_networks_compute_the_same_on_the_oldest_and_the_newest_litert(runtime, shipped_networks, tmp_path):
    """Every output, and every tensor inside."""
    files = [whole(name, path, x) for name, (_, path, x) in shipped_networks.items()]
    otherwise = OTHERWISE_THERE if "==" in runtime else set()
    for file, outputs in zip(files, run(python_with(runtime), files, tmp_path)):
        assert not isinstance(outputs, str), f"{file.name}: {outputs}"
        differ = differences(file.outputs, outputs)[0]
        assert differ == 0 or otherwise & set(operators_in(parse(file.content))), f"{file.name}: {differ}"


@pytest.mark.slow
def test_means_are_rounded_once_where_sum_and_div_would_be_one_operator(shipped_networks, tmp_path):
    """LiteRT 2.1.0 makes one of SUM and DIV by a constant, which multiplies by the reciprocal."""
    files = [whole(name, path, x) for name, (_, path, x) in shipped_networks.items() if "normalization" in name]
    for file, outputs in zip(files, run(python_with("ai-edge-litert==2.1.0"), files, tmp_path)):
        assert differences(file.outputs, outputs)[0] == 0, file.name


@pytest.mark.slow
def test_the_first_litert_with_scales_by_group_computes_the_same(tmp_path):
    policy = kq.Policy("int4", "dynamic", kernel_quantizer=kq.quantizers.AbsMax(granularity="group", group_size=32))
    x = images(SAMPLES, (96,))
    qmodel = kq.quantize(sequential(L.Dense(64, activation="relu"), L.Dense(5), shape=(96,)), policy)
    kq.export(qmodel, tmp_path / "m.tflite")
    content = (tmp_path / "m.tflite").read_bytes()
    file = File("by_group", content, [x], Runtime(content).run([x]))
    (outputs,) = run(python_with("ai-edge-litert==2.1.0"), [file], tmp_path)
    np.testing.assert_array_equal(outputs[0], file.outputs[0])


@pytest.mark.slow
def test_operators_differ_on_tflite_runtime_as_documented(shipped_networks, tmp_path):
    """Every file loads and runs; an operator that rounds otherwise there says so in `docs/runtimes.md`."""
    named = [pair for name, (_, path, x) in shipped_networks.items() for pair in single_operators(name, path, x)]
    results = run(python_with("tflite-runtime==2.14.0"), [file for _, file in named], tmp_path)
    allowed = documented()
    for (operator, file), outputs in zip(named, results):
        assert not isinstance(outputs, str), f"{operator} of {file.name}: {outputs}"
        _, _, steps = differences(file.outputs, outputs)
        assert operator in allowed, f"{operator} (up to {steps}) has no row in docs/runtimes.md"
        assert steps <= allowed[operator], f"{operator} of {file.name}: {steps} steps"
