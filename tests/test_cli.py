import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_quant as kq
import keras_quant_cli
from keras_quant import posttraining
from keras_quant.posttraining.refine import METHODS
from tests.helpers import images, sequential

# One process makes what all share.
pytestmark = pytest.mark.xdist_group("cli")
L = keras.layers
LOADS_NOTHING = """
import sys, keras_quant_cli
try:
    keras_quant_cli.main(sys.argv[1:])
finally:
    loaded = {"tensorflow", "keras", "keras_quant", "numpy", "rich"} & set(sys.modules)
    assert not loaded, loaded
"""


def command(*arguments):
    """Run the command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "keras_quant_cli", *map(str, arguments)], capture_output=True, text=True)


def fails(*arguments):
    """Run a command that is to fail; the line it prints."""
    done = command(*arguments)
    assert done.returncode == 2, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def in_process(capfd, *arguments):
    """Run the command line here, where TensorFlow is loaded; its status and what it prints."""
    from keras_quant_cli import main

    status = main([str(argument) for argument in arguments])
    return status, *capfd.readouterr()


def fails_in_process(capfd, *arguments):
    status, out, err = in_process(capfd, *arguments)
    assert status == 2 and len(err.splitlines()) == 1, (status, out, err)
    return err


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A float model, its inputs, and the quantized model and `.tflite` that the commands made of them."""
    folder = tmp_path_factory.mktemp("cli")
    model = sequential(
        L.Conv2D(4, 3, name="conv"), L.BatchNormalization(name="bn"), L.ReLU(), L.Flatten(), L.Dense(3, name="logits")
    )
    model.save(folder / "float.keras")
    np.save(folder / "x.npy", images())
    np.savez(folder / "x.npz", **{"input_layer": images()})
    done = command(
        "quantize", folder / "float.keras", "-o", folder / "q.keras", "--calibration", folder / "x.npy", "--steps", 1
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "q.keras" in done.stdout
    return folder


# --- answered at once ---


HELP = (["--help"], ["--version"], ["demo", "--help"], ["quantize", "--help"])
WRONG_AT_ONCE = ([], ["frobnicate"], ["export", "no.keras", "o.tflite"])


@pytest.mark.parametrize("arguments", [*HELP, *WRONG_AT_ONCE], ids=" ".join)
def test_help_and_wrong_arguments_load_nothing(arguments):
    done = subprocess.run([sys.executable, "-c", LOADS_NOTHING, *arguments], capture_output=True, text=True)
    helped = arguments in HELP
    assert done.returncode == (0 if helped else 2), done.stderr
    assert len(done.stderr.splitlines()) == (0 if helped else 1)


def test_version_is_the_package_version():
    import keras_quant

    assert command("--version").stdout == f"keras-quant {keras_quant.__version__}\n"


def test_console_script_is_declared():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="keras-quant")
    assert script.value == "keras_quant_cli:main"


WRONG = {
    "suffix": (["quantize", "{x}/x.npy", "-o", "o.keras"], "does not end in .keras"),
    "missing": (["inspect", "{x}/none.tflite"], "does not exist"),
    "folder": (["inspect", "{x}/folder.keras"], "is not a file"),
    "output suffix": (["export", "{x}/q.keras", "{x}/o.pb"], "does not end in .tflite or .onnx"),
    "output folder": (["export", "{x}/q.keras", "{x}/none/o.tflite"], "there is no folder"),
    "steps": (["verify", "{x}/q.keras", "{x}/q.keras", "--data", "{x}/x.npy", "--steps", "0"], "does not end in .tflite"),
    "batch size": (["export", "{x}/q.keras", "{x}/o.tflite", "--batch-size", "-3"], "argument --batch-size"),
    "steps alone": (["quantize", "{x}/q.keras", "-o", "{x}/o.keras", "--steps", "3"], "--calibration"),
    "refine alone": (["quantize", "{x}/q.keras", "-o", "{x}/o.keras", "--refine"], "--calibration"),
    "refine": (["quantize", "{x}/q.keras", "-o", "{x}/o.keras", "--refine", "gtpq"], "'gtpq' is none of equalization, gptq"),
    "policy": (["quantize", "{x}/q.keras", "-o", "{x}/o.keras", "--policy", "int9"], "Did you mean 'int"),
    "input type": (["export", "{x}/q.keras", "{x}/o.tflite", "--input-type", "int4"], "invalid choice"),
    "report folder": (["inspect", "{x}/q.keras", "--html", "{x}/none/r.html"], "there is no folder"),
    "report suffix": (["inspect", "{x}/q.keras", "--html", "{x}/r.pdf"], "does not end in .html"),
    "report steps alone": (["inspect", "{x}/q.keras", "--steps", "3"], "--data, which is missing"),
    "report data of a file": (["inspect", "{x}/q.tflite", "--data", "{x}/x.npy"], "pass that one"),
    "demo folder": (["demo", "--output", "{x}/x.npy"], "cannot make the folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_one_line(case, tmp_path):
    (tmp_path / "folder.keras").mkdir()
    for name in ("x.npy", "q.keras", "q.tflite"):
        (tmp_path / name).write_bytes(b"")
    arguments, message = WRONG[case]
    assert message in fails(*(argument.format(x=tmp_path) for argument in arguments))


def test_demo_says_which_extra_it_needs():
    script = (
        "import importlib.util as u, keras_quant_cli\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'sklearn' else find(name, *rest)\n"
        "keras_quant_cli.main(['demo', '--output', '.'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'keras-quant[demo]'" in done.stderr and len(done.stderr.splitlines()) == 1


# --- the road ---


def test_quantize_export_verify_inspect(files, capfd):
    status, out, err = in_process(capfd, "export", files / "q.keras", files / "q.tflite", "--batch-size", "none")
    assert (status, err) == (0, "")
    assert "q.tflite" in out and "3 of 3 operators on XNNPACK in 1 partition" in out
    for data in ("x.npy", "x.npz"):
        arguments = ("verify", files / "q.keras", files / "q.tflite", "--data", files / data, "--intermediates")
        status, out, err = in_process(capfd, *arguments)
        assert (status, err) == (0, "")
        assert "0 of 96 outputs differ" in out and "(32 samples)" in out
    status, out, err = in_process(capfd, "inspect", files / "q.tflite")
    assert (status, err) == (0, "")
    assert all(text in out for text in ("CONV_2D", "FULLY_CONNECTED", "XNNPACK", "conv", "4×3×3×6, 4 scales"))
    status, out, err = in_process(capfd, "inspect", files / "q.keras")
    assert (status, err) == (0, "")
    assert all(text in out for text in ("QuantConv2D", "?×10×10×4", "zero point", "-128"))
    status, out, err = in_process(capfd, "inspect", files / "float.keras")
    assert (status, err) == (0, "")
    assert all(text in out for text in ("bn, relu", "QuantConv2D", "3 of 3 have a quantized form"))


def test_inspect_measures_sorts_and_writes_a_page(files, capfd, tmp_path):
    options = ("--data", files / "x.npy", "--sort", "bytes", "--html", tmp_path / "r.html")
    status, out, err = in_process(capfd, "inspect", files / "q.keras", *options)
    assert (status, err) == (0, "")
    assert all(text in out for text in ("SQNR alone", "clipped", "on 32 samples", "XNNPACK", "r.html: written"))
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    assert rows[0][2].strip() == "logits" and int(rows[0][7].replace(",", "")) == 1200 + 12
    assert "Error by layer" in (tmp_path / "r.html").read_text()
    in_process(capfd, "export", files / "q.keras", tmp_path / "q.tflite")
    status, out, err = in_process(capfd, "inspect", tmp_path / "q.tflite", "--sort", "macs", "--html", tmp_path / "f.html")
    assert (status, err) == (0, "")
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    assert [row[2].strip() for row in rows[:2]] == ["CONV_2D", "FULLY_CONNECTED"] and rows[0][8].strip() == "21.6 k"
    assert "Bytes by layer" in (tmp_path / "f.html").read_text()


@pytest.mark.parametrize(
    "policy, options, names", [("float32", {}, "WHILE"), ("int8", {"streaming": True}, "ASSIGN_VARIABLE")]
)
def test_inspect_goes_into_loops_and_past_variables(policy, options, names, capfd, tmp_path):
    model = keras.Sequential([keras.Input((20, 4)), keras.layers.LSTM(4, return_sequences=True)])
    x = np.random.default_rng(0).standard_normal((8, 20, 4)).astype("float32")
    qmodel = kq.quantize(model, policy, x if policy == "int8" else None)
    kq.export(qmodel, tmp_path / "m.tflite", **options)
    status, out, err = in_process(capfd, "inspect", tmp_path / "m.tflite", "--html", tmp_path / "m.html")
    assert (status, err) == (0, "")
    assert names in out and "LOGISTIC" in out and (tmp_path / "m.html").exists()


def test_inspect_says_what_it_cannot_do(files, capfd, tmp_path):
    assert "Did you mean 'bytes'" in fails_in_process(capfd, "inspect", files / "q.keras", "--sort", "byte")
    assert "Pass `data`" in fails_in_process(capfd, "inspect", files / "q.keras", "--sort", "sqnr")
    page = tmp_path / "r.html"
    assert "keras-quant quantize" in fails_in_process(capfd, "inspect", files / "float.keras", "--html", page)
    np.save(tmp_path / "narrow.npy", images()[:, :3])
    assert "takes batches" in fails_in_process(
        capfd, "inspect", files / "q.keras", "--data", tmp_path / "narrow.npy", "--html", page
    )
    in_process(capfd, "export", files / "q.keras", tmp_path / "q.tflite")
    (tmp_path / "cut.tflite").write_bytes((tmp_path / "q.tflite").read_bytes()[:-500])
    assert "cut.tflite" in fails_in_process(capfd, "inspect", tmp_path / "cut.tflite", "--html", page)
    assert not page.exists()


def test_export_verify_inspect_onnx(files, capfd):
    pytest.importorskip("tf2onnx", reason="the extra `onnx` is not installed")
    arguments = ("export", files / "q.keras", files / "q.onnx", "--opset", "21", "--storage", "int8", "--batch-size", "none")
    status, out, err = in_process(capfd, *arguments)
    assert (status, err) == (0, "") and "q.onnx" in out and "opset 21" in out
    status, out, err = in_process(capfd, "export", files / "q.keras", files / "q.onnx")
    assert (status, err) == (0, "") and "in float on ONNX Runtime" not in out
    arguments = ("verify", files / "q.keras", files / "q.onnx", "--data", files / "x.npy", "--intermediates")
    status, out, err = in_process(capfd, *arguments)
    assert (status, err) == (0, "") and "0 of 96 outputs differ" in out and "(32 samples)" in out
    status, out, err = in_process(capfd, "inspect", files / "q.onnx")
    assert (status, err) == (0, "")
    wanted = ("QLinearConv", "QGemm", "conv/kernel", "4×6×3×3", "uint8", "batch×12×12×6")
    assert [text for text in wanted if text not in out] == []
    assert in_process(capfd, "export", files / "float.keras", files / "float.onnx")[0] == 0
    (files / "cut.onnx").write_bytes((files / "q.onnx").read_bytes()[:900])
    assert "cut.onnx" in fails_in_process(capfd, "inspect", files / "cut.onnx")
    assert "`opset` is an integer" in fails_in_process(capfd, "export", files / "q.keras", files / "q.onnx", "--opset", "9")


def test_refine_prints_what_each_method_brings(files, capfd):
    assert keras_quant_cli.REFINE == METHODS and all(map(posttraining.get, keras_quant_cli.METHODS))
    start = ("quantize", files / "float.keras", "-o", files / "r.keras", "--policy", "int4")
    status, out, _ = in_process(capfd, *start, "--calibration", files / "x.npy", "--refine", "gptq,bias_correction")
    assert status == 0 and all(text in out for text in ("gptq", "bias_correction", "before", "after"))


def test_uncalibrated_ranges_are_said(files, capfd):
    status, out, _ = in_process(capfd, "quantize", files / "float.keras", "-o", files / "bare.keras")
    assert status == 0 and "ranges not set" in out
    _, out, _ = in_process(capfd, "inspect", files / "bare.keras")
    assert "not set" in out
    assert "never set" in fails_in_process(capfd, "export", files / "bare.keras", files / "bare.tflite")
    assert not (files / "bare.tflite").exists()


def test_verify_exits_1_where_something_differs(files, capfd):
    in_process(capfd, "export", files / "q.keras", files / "old.tflite")
    qmodel = keras.saving.load_model(files / "q.keras")
    dense = qmodel.get_layer("logits")
    dense.bias.assign(dense.bias + 3 * dense.output_quantizer.params().scale)
    qmodel.save(files / "new.keras")
    arguments = ("verify", files / "new.keras", files / "old.tflite", "--data", files / "x.npy")
    status, out, err = in_process(capfd, *arguments)
    assert (status, err) == (1, "")
    assert "outputs differ, by up to" in out and "logits" in out


def test_verify_on_arm(files, capfd, tmp_path, monkeypatch):
    in_process(capfd, "export", files / "q.keras", files / "arm.tflite")
    arguments = ("verify", files / "q.keras", files / "arm.tflite", "--data", files / "x.npy", "--target", "aarch64")
    status, out, err = in_process(capfd, *arguments)
    if status == 0:  # where the emulator is set up
        assert "0 of 96 outputs differ" in out and err == ""
    monkeypatch.setenv("KERAS_QUANT_AARCH64", str(tmp_path))
    assert "aarch64/setup.sh` on x86-64 Debian" in fails_in_process(capfd, *arguments)


def test_search_chooses_policies_that_quantize_takes(files, tmp_path, capfd):
    chosen = tmp_path / "policies.json"
    options = ("--data", files / "x.npy", "--size", 0.95, "--candidates", "int4,int8", "--front", tmp_path / "front.png")
    status, out, _ = in_process(capfd, "search", files / "float.keras", "-o", chosen, *options)
    assert status == 0 and "1 int4, 1 int8" in out and "rise of the loss" in out
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"
    quantize = ("quantize", files / "float.keras", "-o", tmp_path / "q.keras", "--policy", chosen)
    assert in_process(capfd, *quantize)[0] == 0
    tight = ("search", files / "float.keras", "-o", chosen, "--data", files / "x.npy", "--size", 0.01)
    assert "What holds it up: 'logits'" in fails_in_process(capfd, *tight)
    assert "at least one of --size" in fails("search", files / "float.keras", "-o", chosen, "--data", files / "x.npy")


@keras.saving.register_keras_serializable("tests")
class Sorted(L.Layer):
    def call(self, x):
        return keras.ops.sort(x)


def test_inspect_names_layers_without_quantized_form(tmp_path, capfd):
    sequential(L.Conv2D(4, 3), Sorted(name="odd"), L.Flatten()).save(tmp_path / "m.keras")
    status, out, _ = in_process(capfd, "inspect", tmp_path / "m.keras")
    assert status == 0 and "2 of 3 have a quantized form" in out and "none: Operation 'odd/sort' (Sort)" in out


# --- errors ---


def test_damaged_files_are_one_line(files, tmp_path, capfd):
    model, x = files / "float.keras", files / "x.npy"
    contents = {
        "cut.keras": model.read_bytes()[:-300],
        "text.keras": b"hello",
        "cut.npy": x.read_bytes()[:-300],
        "text.npy": b"hello",
        "cut.npz": (files / "x.npz").read_bytes()[:-300],
        "text.tflite": b"hello",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "number.npy", np.float32(3))
    np.save(tmp_path / "narrow.npy", images()[:, :3])
    np.save(tmp_path / "empty.npy", images()[:0])
    np.save(tmp_path / "nan.npy", images() * np.nan)
    np.savez(tmp_path / "names.npz", a=images(), b=images())
    out = tmp_path / "out.keras"
    for name in ("cut.keras", "text.keras"):
        assert name in fails_in_process(capfd, "quantize", tmp_path / name, "-o", out)
    names = (
        "cut.npy",
        "text.npy",
        "cut.npz",
        "objects.npy",
        "words.npy",
        "number.npy",
        "narrow.npy",
        "empty.npy",
        "nan.npy",
    )
    for name in (*names, "names.npz"):
        fails_in_process(capfd, "quantize", model, "-o", out, "--calibration", tmp_path / name)
    assert not out.exists()
    assert "text.tflite" in fails_in_process(capfd, "inspect", tmp_path / "text.tflite")
    assert "compute in float" in fails_in_process(capfd, "export", model, tmp_path / "out.tflite")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_errors_of_a_process_are_one_line(files):
    """Nothing that TensorFlow prints on its own gets through."""
    assert "compute in float" in fails("export", files / "float.keras", files / "none.tflite")


def test_failed_write_leaves_the_old_file(files, tmp_path, capfd, monkeypatch):
    out = tmp_path / "out.keras"
    out.write_bytes(b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert "No space left" in fails_in_process(capfd, "quantize", files / "float.keras", "-o", out)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.keras"]


def test_several_inputs_come_by_name(tmp_path, capfd):
    a, b = keras.Input((4,), name="a"), keras.Input((6,), name="b")
    keras.Model([a, b], L.Concatenate()([L.Dense(3)(a), b])).save(tmp_path / "m.keras")
    x, y = images(shape=(4,)), images(shape=(6,))
    np.savez(tmp_path / "x.npz", b=y, a=x, labels=np.zeros(3))
    np.savez(tmp_path / "uneven.npz", a=x, b=y[:7])
    np.save(tmp_path / "one.npy", x)
    quantize = ("quantize", tmp_path / "m.keras", "-o", tmp_path / "q.keras", "--calibration")
    assert "Give them by name" in fails_in_process(capfd, *quantize, tmp_path / "one.npy")
    assert "different numbers of samples" in fails_in_process(capfd, *quantize, tmp_path / "uneven.npz")
    assert in_process(capfd, *quantize, tmp_path / "x.npz")[0] == 0
    assert in_process(capfd, "export", tmp_path / "q.keras", tmp_path / "q.tflite")[0] == 0
    verify = ("verify", tmp_path / "q.keras", tmp_path / "q.tflite", "--data", tmp_path / "x.npz")
    assert in_process(capfd, *verify)[0] == 0


@pytest.mark.slow
def test_one_file_has_several_sizes(tmp_path, capfd):
    model, small, large = tmp_path / "m.keras", tmp_path / "small.npy", tmp_path / "large.npy"
    x = keras.Input((None,))
    keras.Model(x, L.Dense(2)(L.GlobalMaxPooling1D()(L.Conv1D(4, 3)(keras.ops.expand_dims(x, -1))))).save(model)
    np.save(small, images(shape=(16,)))
    np.save(large, images(shape=(24,)))
    qmodel, file = tmp_path / "q.keras", tmp_path / "q.tflite"
    assert in_process(capfd, "quantize", model, "-o", qmodel, "--calibration", small)[0] == 0
    sizes = ("--signature", "small=16", "--signature", "large=24")
    assert "(QuantReshape) holds sizes" in fails_in_process(capfd, "export", qmodel, file, *sizes)
    status, out, _ = in_process(capfd, "export", qmodel, file, *sizes, "--float-model", model)
    assert status == 0 and "2 signatures" in out
    data = ("--data", f"small={small}", "--data", f"large={large}")
    status, out, _ = in_process(capfd, "verify", qmodel, file, *data, "--float-model", model)
    assert status == 0 and "0 of 128 outputs differ" in out
    assert "large: " in in_process(capfd, "inspect", file)[1]
    assert in_process(capfd, "export", qmodel, file, "--input-shape", "none", "--float-model", model)[0] == 0
    assert in_process(capfd, "verify", qmodel, file, "--data", large, "--float-model", model)[0] == 0


def test_policies_come_from_names_and_from_json(files, capfd, tmp_path):
    (tmp_path / "policies.json").write_text('{"policies": {"conv": "int16"}, "default": "int4"}')
    for policy, ends, expected in (
        (tmp_path / "policies.json", (), "int16"),
        ("w6a8", ("--ends", "int16"), "int16"),
    ):
        arguments = ("quantize", files / "float.keras", "-o", tmp_path / "q.keras", "--calibration", files / "x.npy")
        status, _, err = in_process(capfd, *arguments, "--policy", policy, *ends)
        assert (status, err) == (0, "")
        status, out, _ = in_process(capfd, "inspect", tmp_path / "q.keras")
        assert status == 0 and expected in out
    options = ("--input-type", "float32", "--output-type", "float32")
    status, _, err = in_process(capfd, "export", tmp_path / "q.keras", tmp_path / "q.tflite", *options)
    assert (status, err) == (0, "")
    arguments = ("verify", tmp_path / "q.keras", tmp_path / "q.tflite", "--data", files / "x.npy", "--intermediates")
    assert in_process(capfd, *arguments)[0] == 0
