"""TensorBoard's files."""

import tensorflow as tf
from tensorflow.core.framework import summary_pb2


class Summaries:
    """Writes TensorBoard's event files, without TensorBoard.

    Histograms keep the bins that they are given: TensorBoard's own function would sort values into 30 of its own.

    Args:
        folder: where the event file goes.
    """

    def __init__(self, folder):
        self._writer = tf.summary.create_file_writer(str(folder))

    def scalar(self, name, value, step):
        """One number."""
        self._write(name, "scalars", summary_pb2.DATA_CLASS_SCALAR, tf.constant(value, tf.float32), step)

    def histogram(self, name, edges, counts, step):
        """Counts of values between edges, of which there is one more."""
        bins = tf.stack([tf.cast(x, tf.float64) for x in (edges[:-1], edges[1:], counts)], axis=-1)
        self._write(name, "histograms", summary_pb2.DATA_CLASS_TENSOR, bins, step)

    def _write(self, name, plugin, kind, tensor, step):
        metadata = tf.compat.v1.SummaryMetadata(data_class=kind)
        metadata.plugin_data.plugin_name = plugin
        with self._writer.as_default():
            tf.summary.write(name, tensor, step, metadata)

    def flush(self):
        self._writer.flush()

    def close(self):
        self._writer.close()
