"""What of Keras has no integer form, or does its work outside the model, each with the reason and the way out."""

from keras_quant.layers.registry import leaves_outside, refuses, refuses_operations

refuses(
    "It holds a program of another framework, which has no Keras layers inside. Write the layer in Keras.",
    "FlaxLayer",
    "JaxLayer",
    "TFSMLayer",
    "TorchModuleWrapper",
)

leaves_outside(
    "It takes text, which no kernel does. Cut it off: call it in the data pipeline, and begin the model with "
    '`keras.Input(shape, dtype="int32")` where its ids come out.',
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "StringLookup",
    "TextVectorization",
)
leaves_outside(
    "It computes a histogram of each image, which no kernel does. Call it in the data pipeline.",
    "AutoContrast",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "Equalization",
)
leaves_outside("It prepares labels. Call it in the data pipeline.", "MaxNumBoundingBoxes")

refuses_operations(
    "It orders values by size, and the runtime has no int8 kernel that does. Do it with the model's outputs, on the host.",
    "numpy.Argpartition",
    "numpy.Argsort",
    "numpy.Median",
    "numpy.Nanmedian",
    "numpy.Nanpercentile",
    "numpy.Nanquantile",
    "numpy.Percentile",
    "numpy.Quantile",
    "numpy.SearchSorted",
    "numpy.Sort",
    "nn.Sparsemax",
)
refuses_operations(
    "How many values come out, or which, depends on the values, and the runtime plans memory for one size. "
    "Do it with the model's outputs, on the host.",
    "numpy.Bincount",
    "numpy.Histogram",
    "numpy.Nonzero",
    "numpy.Unique",
    "math.SegmentProd",
    "core.Scatter",
    "core.ScatterUpdate",
    "core.SliceUpdate",
)
refuses_operations(
    "It joins the samples of a batch, which the runtime takes one by one, or segments that are computed. Move the axis of "
    "the segments in front of the batch and back, with `ops.transpose`, and make their ids constants.",
    "math.SegmentMax",
    "math.SegmentMin",
    "math.SegmentSum",
)
refuses_operations(
    "It mixes the samples of a batch, which the runtime takes one by one. Work on the other axes, or use `ops.matmul`, "
    "`ops.einsum` or `ops.flip` with the batch left whole.",
    "numpy.Corrcoef",
    "numpy.Correlate",
    "numpy.Diag",
    "numpy.Diagflat",
    "numpy.Flipud",
    "numpy.Kron",
    "numpy.Meshgrid",
    "numpy.Outer",
    "numpy.Ravel",
    "numpy.Vander",
    "numpy.Vdot",
    "numpy.Vsplit",
    "numpy.Vstack",
)
refuses_operations(
    "It is a loop, or a choice between two programs, which a graph of int8 operators does not hold. Write out its steps, or "
    "multiply with a mask.",
    "core.AssociativeScan",
    "core.Cond",
    "core.ForiLoop",
    "core.Map",
    "core.Scan",
    "core.Switch",
    "core.VectorizedMap",
    "core.WhileLoop",
)
refuses_operations(
    "It decomposes or inverts matrices, for which the runtime has no kernel. Do it with the model's outputs, on the host; "
    "of a constant matrix, when the model is built.",
    "linalg.Cholesky",
    "linalg.CholeskyInverse",
    "linalg.Det",
    "linalg.Eig",
    "linalg.Eigh",
    "linalg.Inv",
    "linalg.Lstsq",
    "linalg.LuFactor",
    "linalg.MatrixRank",
    "linalg.Pinv",
    "linalg.Qr",
    "linalg.SVD",
    "linalg.Solve",
    "linalg.SolveTriangular",
    "math.Logdet",
    "numpy.Slogdet",
)
refuses_operations(
    "It makes or takes complex numbers, which have no int8 form; `ops.fft`, of real and imaginary parts, has. A spectrogram "
    "is `keras.layers.STFTSpectrogram` or `MelSpectrogram`, which compute in float by themselves.",
    "math.ISTFT",
    "math.STFT",
    "math.ViewAsComplex",
    "math.ViewAsReal",
    "nn.Polar",
    "numpy.Angle",
    "numpy.Imag",
)
refuses_operations(
    "Where each pixel comes from is computed, or its colour chosen case by case, for which the runtime has no int8 kernel. "
    "Do it in the data pipeline.",
    "image.AffineTransform",
    "image.ElasticTransform",
    "image.HSVToRGB",
    "image.MapCoordinates",
    "image.PerspectiveTransform",
    "image.RGBToHSV",
    "image.ScaleAndTranslate",
)
refuses_operations("It adds overlapping patches. Use a Conv2DTranspose with a constant kernel.", "nn.Fold")
refuses_operations(
    "It works on the bits of a number, and those of int8 are others than those of float. Leave it out.",
    "numpy.Nextafter",
    "numpy.View",
)
