"""What int8 costs a vision transformer, whose attention spreads over many tokens, on CIFAR-10.

    python benchmarks/attention.py [--epochs 8] [--qat] [--data FOLDER]

Patches of 4×4 pixels, so 64 tokens; four blocks of 64 units and 4 heads. The float network is trained first and kept beside
the results. Files without training by TFLiteConverter and keras_quant, with a softmax's own grid and with the format's, on
the same 500 calibration images, and with `--qat` keras_quant's after two epochs of `recipe`: accuracy on the 10,000 test
images on LiteRT, the share that has float's class, and the signal to noise ratio of the logits.
"""

import argparse
import pathlib
import tempfile

import accuracy
import keras
import latency
import networks
import numpy as np
import recipe
import report

import keras_quant as kq

CALIBRATION = 500


def trained(path, epochs, x, y):
    """The float network, from `path` if it is there."""
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(0)
    model = networks.vision_transformer()
    steps = epochs * (len(x) // recipe.BATCH)
    optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps, warmup_target=2e-3))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(recipe.batches(x, y), epochs=epochs, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def on_format_s_grid(qmodel):
    """The quantized network with the grid that the format prescribes for a softmax in all of its softmaxes."""
    for layer in qmodel._flatten_layers():
        if isinstance(layer, kq.layers.QuantInnerSoftmax):
            low, high = (float(end) for end in layer.output_quantizer.range())
            print(f"{layer.name}: probabilities from {low:.2f} to {high:.2f}")
            layer.output_quantizer.set_range(0.0, 255 / 256)
    return qmodel


def exported(qmodel, x):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.tflite"
        kq.export(qmodel, path)
        parity = kq.verify(qmodel, path, x, verbose=0)
        return path.read_bytes(), parity.mismatches


def row(name, content, reference, x, y, differ="-"):
    logits = accuracy.outputs(content, x)
    noise = np.sum((logits - reference) ** 2)
    return {
        "": name,
        "accuracy %": f"{accuracy.percent(logits.argmax(-1) == y):.2f}",
        "float's class %": f"{accuracy.percent(logits.argmax(-1) == reference.argmax(-1)):.2f}",
        "SQNR dB": f"{10 * np.log10(np.sum(reference**2) / noise):.1f}" if noise else "-",
        "bytes": len(content),
        "outputs that differ": differ,
    }


def main():
    parser = report.arguments(argparse.ArgumentParser(description=__doc__.split("\n")[0]), "attention")
    parser.add_argument("--epochs", type=int, default=8, help="of the float network")
    parser.add_argument("--qat", action="store_true", help="train the quantized network, too")
    parser.add_argument("--data", type=pathlib.Path, default=networks.DATA, help="folder with the images")
    args = parser.parse_args()
    (train_x, train_y), (x, y) = networks.cifar10("train", args.data), networks.cifar10("test", args.data)
    x = x.astype("float32")
    model = trained(args.json.with_name(f"vision_transformer_{args.epochs}.keras"), args.epochs, train_x, train_y)
    chosen = np.random.default_rng(0).choice(len(train_x), CALIBRATION, replace=False)
    calibration = train_x[chosen].astype("float32")
    plain = latency.converted(model)
    reference = accuracy.outputs(plain, x)
    rows = [row("float", plain, reference, x, y)]
    rows.append(row("TFLiteConverter, post-training int8", latency.converted(model, calibration), reference, x, y))
    qmodel = kq.quantize(model, "int8", calibration)
    content, differ = exported(qmodel, calibration)
    rows.append(row("keras_quant, post-training int8", content, reference, x, y, differ))
    fixed = on_format_s_grid(kq.quantize(model, "int8", calibration))
    content, differ = exported(fixed, calibration)
    rows.append(row("the same, softmax in steps of 1/256", content, reference, x, y, differ))
    if args.qat:
        recipe.fine_tune(keras, qmodel, train_x, train_y, from_logits=True)
        content, differ = exported(qmodel, calibration)
        rows.append(row("keras_quant, int8 after QAT", content, reference, x, y, differ))
    report.show("A vision transformer, CIFAR-10", rows, args.json)


if __name__ == "__main__":
    main()
