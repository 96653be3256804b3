"""What the replicas of a distribution strategy have to agree on."""

import keras
import numpy as np
import tensorflow as tf


def extremes_of_replicas(low, high):
    """The lowest and the highest value of a whole batch, from those of this replica's share; scalars."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return low, high
    shares = context.all_gather(tf.stack([low, -high])[None], axis=0)
    least = tf.reduce_min(shares, axis=0)
    return least[0], -least[1]


def statistics_of_replicas(mean, variance, momentum):
    """Moving statistics after the whole batch, from those after this replica's share of it.

    The batch's variance is the mean of the shares' and the variance of their means, which lie `1 / (1 - momentum)` times
    as far apart as the moving ones.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or momentum >= 1:
        return mean, variance
    whole, within = context.all_reduce(tf.distribute.ReduceOp.MEAN, [mean, variance])
    between = context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.square(mean - whole))
    return whole, within + between / (1.0 - momentum)


def is_multi_worker(model):
    """Whether a model was made under a strategy of several workers."""
    return model.distribute_strategy.extended._in_multi_worker_mode()


def share_of_batch(model, iterator):
    """The share that one replica gets of the first batch of an iterator of `fit`, in its structure."""
    local = model.distribute_strategy.experimental_local_results
    for _, _, batches in iterator:
        return keras.tree.map_structure(lambda x: local(x)[0], next(batches))


def from_all_workers(model, array):
    """An array of each worker of the strategy that a model was made under, in their order; of one process its own alone."""
    if not is_multi_worker(model):
        return [array]
    strategy = model.distribute_strategy

    def gather(x):
        return tf.distribute.get_replica_context().all_gather(x[None], axis=0)

    shares = strategy.experimental_local_results(strategy.run(tf.function(gather), args=(tf.constant(array),)))
    return list(np.asarray(shares[0]))
