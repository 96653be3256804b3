"""TensorFlow forms of what `keras.ops` has no single-pass form for.

Everything else in the package is written in `keras.ops`; another Keras backend needs this folder again and no other.
"""

from keras_quant.backend.arrays import (
    add_bias,
    clip,
    compiles_with_xla,
    constant,
    cut_in_parts,
    dense,
    erfc,
    is_eager,
    is_symbolic,
    keras_logits,
    largest,
    mask_bits,
    matmul,
    product_in_place,
    read,
    round_half_even,
    round_to_bfloat16,
    scale_and_shift,
    search_sorted,
    shift_left,
    shift_right,
    smallest,
    where_below,
)
from keras_quant.backend.columns import largest_size
from keras_quant.backend.fake_quant import (
    constant_fake_quant,
    fake_quant,
    inner_ends,
    learned_fake_quant,
    only_gradient,
    scale_gradient,
    straight_through,
    times_unit,
    unit,
    weight_fake_quant,
)
from keras_quant.backend.functions import (
    assigning,
    compiled,
    compiled_for_batches,
    first_time,
    gradients_of,
    hessian_traces,
    is_positive_now,
    labels_to_come,
    step_on_data,
    without_optionals,
)
from keras_quant.backend.gelu import gelu
from keras_quant.backend.graph_functions import ReadingError, symbolic_outputs
from keras_quant.backend.loop import unfold
from keras_quant.backend.norm import batch_normalize, standardize
from keras_quant.backend.replicas import (
    extremes_of_replicas,
    from_all_workers,
    is_multi_worker,
    share_of_batch,
    statistics_of_replicas,
)
from keras_quant.backend.shared import traced_once
from keras_quant.backend.summaries import Summaries
