"""The callback: TensorBoard's event files, and the ranges over training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_quant as kq
from tests.helpers import images, sequential

L = keras.layers
X, Y = images(64), np.arange(64) % 5
EPOCHS = 3


def network(**options):
    layers = L.Conv2D(8, 3, name="conv"), L.BatchNormalization(), L.ReLU(), L.Flatten(), L.Dense(5, name="logits")
    qmodel = kq.quantize(sequential(*layers), "int8", **options)
    qmodel.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return qmodel


def events(folder):
    """All summaries of a log: dict from tags to lists of (step, array, plugin)."""
    found = {}
    for path in sorted(folder.glob("**/*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                entry = event.step, tf.make_ndarray(value.tensor), value.metadata.plugin_data.plugin_name
                found.setdefault(value.tag, []).append(entry)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder, qmodel = tmp_path_factory.mktemp("logs"), network(calibration_data=X)
    ranges, data = {}, X[:16]

    def note(epoch, logs=None):
        quantizer = qmodel.get_layer("conv").output_quantizer
        ranges[epoch] = float(quantizer.params().high * quantizer.params().scale)

    summary = kq.callbacks.QuantizationSummary(folder, data=data, histogram_freq=2)
    callbacks = [
        summary,
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, _: note(-1) if e == 0 else None, on_epoch_end=note),
    ]
    qmodel.fit(X, Y, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return qmodel, summary, ranges, data, events(folder)


@pytest.mark.lowest
def test_ranges_and_scales_of_each_epoch(trained):
    qmodel, _, ranges, _, found = trained
    assert [step for step, *_ in found["range_high/conv"]] == [0, 1, 2]
    for step, value, plugin in found["range_high/conv"]:
        assert value == np.float32(ranges[step]) and plugin == "scalars"
    assert len({float(value) for _, value, _ in found["range_high/conv"]}) == EPOCHS
    last = qmodel.get_layer("logits").output_quantizer.params()
    assert found["scale/logits"][-1][1] == np.float32(last.scale)
    # A layer that keeps its input's grid has no range of its own.
    assert not [tag for tag in found if tag.startswith("range_") and "flatten" in tag]


def test_errors_and_histograms_are_those_of_the_report(trained):
    qmodel, _, _, data, found = trained
    report = kq.report(qmodel, data)
    for layer in report.layers:
        assert found[f"sqnr/{layer.path}"][-1][1] == pytest.approx(layer.sqnr, rel=1e-4)
        assert found[f"sqnr_alone/{layer.path}"][-1][1] == pytest.approx(layer.local_sqnr, rel=1e-4)
        assert found[f"clipped/{layer.path}"][-1][1] == pytest.approx(layer.clipped)
    (first, *_), (last, bins, plugin) = found["weights/conv"]
    assert (first, last, plugin) == (0, 2, "histograms")
    weights = next(layer for layer in report.layers if layer.path == "conv").weights
    assert np.array_equal(bins[:, 2], weights.counts) and np.array_equal(bins[:, 0], weights.edges[:-1])
    assert found["activations/logits"][-1][1][:, 2].sum() == 16 * 5


def test_tensorboard_reads_the_log(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    network(calibration_data=X).fit(X, Y, verbose=0, callbacks=[kq.callbacks.QuantizationSummary(tmp_path)])
    log = accumulator.EventAccumulator(str(tmp_path / "quantization"), size_guidance={"tensors": 0})
    log.Reload()
    kinds = {tag: log.SummaryMetadata(tag) for tag in log.Tags()["tensors"]}
    assert kinds["scale/conv"].plugin_data.plugin_name == "scalars" and kinds["scale/conv"].data_class == 1
    assert kinds["weights/conv"].plugin_data.plugin_name == "histograms" and kinds["weights/conv"].data_class == 2
    assert not [tag for tag in kinds if tag.startswith(("sqnr", "clipped", "activations"))]


@pytest.mark.lowest
def test_history_goes_into_the_report(trained, tmp_path):
    qmodel, summary, ranges, _, _ = trained
    history = summary.history["conv"]
    assert history.epochs == (0, 1, 2, 3)
    assert history.high == pytest.approx([ranges[epoch] for epoch in (-1, 0, 1, 2)], rel=1e-6)
    report = kq.report(qmodel, history=summary)
    assert report.history == summary.history == kq.report(qmodel, history=summary.history).history
    report.save(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Ranges over training" in page and page.count("range over training</text>") >= 2
    kq.report(qmodel).save(tmp_path / "r.html")
    assert "over training" not in (tmp_path / "r.html").read_text()


def test_without_calibration_history_begins_with_the_first_epoch(tmp_path):
    summary = kq.callbacks.QuantizationSummary(data=X[:8])
    network().fit(X, Y, epochs=2, initial_epoch=0, verbose=0, callbacks=[summary])
    assert summary.history["conv"].epochs == (1, 2)
    assert not list(tmp_path.iterdir())


def test_a_second_fit_begins_anew_and_counts_on():
    summary, qmodel = kq.callbacks.QuantizationSummary(), network(calibration_data=X)
    qmodel.fit(X, Y, epochs=1, verbose=0, callbacks=[summary])
    qmodel.fit(X, Y, initial_epoch=1, epochs=3, verbose=0, callbacks=[summary])
    assert summary.history["conv"].epochs == (1, 2, 3)


def test_training_is_the_same_with_and_without(tmp_path):
    results = []
    for callbacks in ([], [kq.callbacks.QuantizationSummary(tmp_path, data=X[:8])]):
        keras.utils.set_random_seed(3)
        qmodel = network(calibration_data=X)
        qmodel.fit(X, Y, epochs=2, verbose=0, callbacks=callbacks)
        results.append([np.array(v) for v in qmodel.variables])
    assert all(np.array_equal(a, b) for a, b in zip(*results))


def test_errors_come_before_the_first_epoch(tmp_path):
    qmodel = network(calibration_data=X)
    before = [np.array(v) for v in qmodel.variables]
    with pytest.raises(kq.CalibrationError, match="takes batches"):
        qmodel.fit(X, Y, verbose=0, callbacks=[kq.callbacks.QuantizationSummary(data=images(shape=(3, 3, 6)))])
    assert all(np.array_equal(a, np.array(v)) for a, v in zip(before, qmodel.variables))
    with pytest.raises(kq.QuantizationError, match="read only once"):
        kq.callbacks.QuantizationSummary(data=iter([X]))
    with pytest.raises(kq.QuantizationError, match="histogram_freq"):
        kq.callbacks.QuantizationSummary(histogram_freq=-1)
    model = sequential(L.Flatten(), L.Dense(5))
    model.compile("sgd", "mse")
    with pytest.raises(kq.QuantizationError, match="keras_quant.quantize"):
        model.fit(X, np.zeros((64, 5)), verbose=0, callbacks=[kq.callbacks.QuantizationSummary()])


def test_ranges_inside_a_loop_are_followed(tmp_path):
    x = images(32, (20, 5))
    qmodel = kq.quantize(sequential(L.GRU(4, name="gru"), L.Dense(1), shape=(20, 5)), "int8", x)
    qmodel.compile("adam", "mse")
    summary = kq.callbacks.QuantizationSummary(tmp_path, data=x[:8])
    qmodel.fit(x, np.zeros((32, 1)), epochs=1, verbose=0, callbacks=[summary])
    assert summary.history["gru/gates_sum"].epochs == (0, 1)
    tags = events(tmp_path)
    assert {"range_low/gru/gates_sum", "sqnr/gru/gates", "weights/gru/gates_recurrent"} <= set(tags)
