"""Recurrent layers on 64-bit Arm and on old runtimes: what differs by a step once would grow with each step."""

import pytest

import keras_quant as kq
from keras_quant.tflite import Emulator, Runtime
from keras_quant.tflite.runtime import quantize_array
from tests.helpers import functional, shake
from tests.layers.test_recurrent import CASES, words
from tests.runtimes.shipped import File, differences
from tests.runtimes.test_aarch64 import CPUS
from tests.runtimes.test_old import python_with, run

pytestmark = pytest.mark.xdist_group("loops")
KINDS = (
    "lstm",
    "lstm_short",
    "gru",
    "gru_reset_before",
    "simple",
    "leaky",
    "minimal_gated",
    "masked_lstm",
    "masked_gru",
    "encoder_decoder_lstm",
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """For each kind: the quantized model, its file, its inputs."""
    folder, made = tmp_path_factory.mktemp("loops"), {}
    for name in KINDS:
        length, build = CASES[name]
        x = words(length)
        qmodel = kq.quantize(shake(functional(build, (length, 5))), "int8", x)
        kq.export(qmodel, folder / f"{name}.tflite")
        made[name] = qmodel, folder / f"{name}.tflite", x
    return made


@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_loops_are_the_same_on_arm(cpu, shipped):
    try:
        emulator = Emulator(cpu)
    except kq.EmulatorError as error:
        pytest.skip(str(error))
    with emulator:
        for name, (qmodel, path, x) in shipped.items():
            assert kq.verify(qmodel, path, x, target=emulator, verbose=0).mismatches == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["ai-edge-litert==1.0.1", "ai-edge-litert"])
def test_loops_are_the_same_on_the_oldest_and_the_newest_litert(runtime, shipped, tmp_path):
    files = []
    for name, (_, path, x) in shipped.items():
        content = path.read_bytes()
        here = Runtime(content)
        given = [quantize_array(x, detail) for detail in here.inputs]
        files.append(File(name, content, given, here.run(given)))
    for file, outputs in zip(files, run(python_with(runtime), files, tmp_path)):
        assert not isinstance(outputs, str), f"{file.name}: {outputs}"
        assert differences(file.outputs, outputs)[0] == 0, file.name
