"""Small keras_hub models with random weights, and inputs for them: `MODELS` has a function for each."""

import keras
import keras_hub
import numpy as np

M = keras_hub.models
LENGTH, VOCABULARY, SIDE = 16, 64, 64
MODELS = {}
LEFT_OUT = {
    "XLNet": "it repeats its positions along the second axis and reshapes them to the first, so that what a sample gets "
    "depends on how many others are beside it; `quantize` says that a constant differs from sample to sample",
    "CLIP's and SigLIP's comparison": "each image is compared with every text of the batch, which the runtime takes one by "
    "one; their encoders are in the table",
}


def _model(name):
    def decorate(build):
        MODELS[name] = build
        return build

    return decorate


def _images(side=SIDE, seed=0, count=8):
    return np.random.default_rng(seed).uniform(0, 1, (count, side, side, 3)).astype("float32")


def tokens(count=8, length=LENGTH):
    """Ids with padding behind them, and its mask."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 2, length + 1, (count, 1))
    mask = np.arange(length) < lengths
    return (rng.integers(1, VOCABULARY, (count, length)) * mask).astype("int32"), mask.astype("int32")


def _text(segments=False):
    ids, mask = tokens()
    data = {"token_ids": ids, "padding_mask": mask}
    return {**data, "segment_ids": np.zeros_like(ids)} if segments else data


def _with_data(model, data):
    """A model and what of the data it takes: some have no padding mask."""
    return model, {name: data[name] for name in model.input}


_ENCODER = {"vocabulary_size": VOCABULARY, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}


def _encoders():
    long = {"max_sequence_length": 32}
    yield "BERT", M.BertBackbone, {**_ENCODER, **long}, True
    yield "DistilBERT", M.DistilBertBackbone, {**_ENCODER, **long}, False
    yield "RoBERTa", M.RobertaBackbone, {**_ENCODER, **long}, False
    yield "XLM-RoBERTa", M.XLMRobertaBackbone, {**_ENCODER, **long}, False
    yield "ALBERT", M.AlbertBackbone, {**_ENCODER, "embedding_dim": 8, **long}, True
    electra = {("vocab_size" if key == "vocabulary_size" else key): value for key, value in _ENCODER.items()}
    yield "ELECTRA", M.ElectraBackbone, {**electra, "embedding_dim": 8, **long}, True
    yield "DeBERTaV3", M.DebertaV3Backbone, {**_ENCODER, "bucket_size": 8, **long}, False
    fnet = {key: value for key, value in _ENCODER.items() if key != "num_heads"}
    yield "FNet", M.FNetBackbone, {**fnet, **long}, True
    yield "ESM2", M.ESMBackbone, {**_ENCODER}, False
    yield "RoFormerV2", M.RoformerV2Backbone, {**_ENCODER, "head_size": 8}, True


def _decoders():
    long = {"max_sequence_length": 32}
    grouped = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dim": 16,
        "intermediate_dim": 32,
    }
    yield "GPT-2", M.GPT2Backbone, {**_ENCODER, **long}
    yield "OPT", M.OPTBackbone, {**_ENCODER, **long}
    yield "BLOOM", M.BloomBackbone, dict(_ENCODER)
    yield "GPT-NeoX", M.GPTNeoXBackbone, dict(_ENCODER)
    falcon = {**_ENCODER, "num_attention_heads": 2}
    falcon.pop("num_heads")
    yield "Falcon", M.FalconBackbone, falcon
    yield "Llama", M.LlamaBackbone, dict(grouped)
    yield "Mistral", M.MistralBackbone, {**grouped, "sliding_window": 8}
    yield "Gemma", M.GemmaBackbone, {**grouped, "head_dim": 8}
    yield "Qwen2", M.QwenBackbone, dict(grouped)
    yield "Phi-3", M.Phi3Backbone, dict(grouped)


for _name, _class, _arguments, _segments in _encoders():
    MODELS[_name] = lambda c=_class, a=_arguments, s=_segments: _with_data(c(**a), _text(s))
for _name, _class, _arguments in _decoders():
    MODELS[_name] = lambda c=_class, a=_arguments: _with_data(c(**a), _text())


@_model("BERT classifier")
def _bert_classifier():
    backbone, data = MODELS["BERT"]()
    return M.BertTextClassifier(backbone=backbone, num_classes=4, preprocessor=None), data


@_model("BART")
def _bart():
    backbone = M.BartBackbone(**{**_ENCODER, "max_sequence_length": 32})
    ids, mask = tokens()
    sides = ("encoder", "decoder")
    return backbone, {f"{s}_{n}": v for s in sides for n, v in (("token_ids", ids), ("padding_mask", mask))}


@_model("T5 encoder and decoder")
def _t5():
    backbone = M.T5Backbone(**_ENCODER)
    ids, mask = tokens()
    sides = ("encoder", "decoder")
    return backbone, {f"{s}_{n}": v for s in sides for n, v in (("token_ids", ids), ("padding_mask", mask))}


@_model("Whisper")
def _whisper():
    backbone = M.WhisperBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        num_mels=16,
        max_encoder_sequence_length=64,
        max_decoder_sequence_length=16,
    )
    ids, mask = tokens()
    features = np.random.default_rng(0).normal(size=(8, 64, 16)).astype("float32")
    return backbone, {"encoder_features": features, "decoder_token_ids": ids, "decoder_padding_mask": mask}


@_model("ResNet")
def _resnet(side=SIDE):
    return M.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=(side, side, 3),
    ), _images()


@_model("DenseNet")
def _densenet():
    return M.DenseNetBackbone(stackwise_num_repeats=[2, 2], growth_rate=8, image_shape=(SIDE, SIDE, 3)), _images()


@_model("VGG")
def _vgg():
    return M.VGGBackbone(
        stackwise_num_repeats=[1, 1, 2], stackwise_num_filters=[8, 16, 16], image_shape=(SIDE, SIDE, 3)
    ), _images()


@_model("CSPNet")
def _cspnet():
    return M.CSPNetBackbone(
        stem_filters=16,
        stem_kernel_size=3,
        stem_strides=2,
        stackwise_num_filters=[16, 32],
        stackwise_strides=[1, 2],
        stackwise_depth=[1, 2],
        block_type="dark_block",
        stage_type="csp",
        bottle_ratio=[0.5],
        block_ratio=[0.5],
        image_shape=(SIDE, SIDE, 3),
    ), _images()


@_model("ViT")
def _vit():
    return M.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    ), _images(32)


@_model("DeiT")
def _deit():
    return M.DeiTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32
    ), _images(32)


@_model("DINOv2")
def _dinov2():
    return M.DINOV2Backbone(
        patch_size=8, num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=(32, 32, 3)
    ), {"images": _images(32)}


@_model("Swin")
def _swin():
    return M.SwinTransformerBackbone(
        image_shape=(32, 32, 3), patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    ), _images(32)


@_model("ViTDet (SAM's encoder)")
def _vitdet():
    return M.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=32,
        num_heads=2,
        global_attention_layer_indices=[1],
        image_shape=(64, 64, 3),
        patch_size=8,
        num_output_channels=8,
        window_size=4,
        use_rel_pos=True,
    ), _images()


@_model("MiT")
def _mit():
    return M.MiTBackbone(
        layerwise_depths=[1, 1],
        image_shape=(SIDE, SIDE, 3),
        hidden_dims=[16, 32],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[4, 2],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
    ), _images()


@_model("SegFormer")
def _segformer():
    encoder, images = _mit()
    return M.SegFormerBackbone(image_encoder=encoder, projection_filters=16), images


@_model("DeepLabV3")
def _deeplab():
    encoder, images = _resnet(None)
    return M.DeepLabV3Backbone(
        image_encoder=encoder,
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        dilation_rates=[2, 4],
        upsampling_size=4,
        image_shape=(None, None, 3),
    ), images


@_model("RetinaNet")
def _retinanet():
    encoder, images = _resnet(None)
    return M.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=4, use_p5=False, image_shape=(None, None, 3)
    ), images


@_model("Xception")
def _xception():
    return M.XceptionBackbone(
        stackwise_conv_filters=[[8, 16], [16, 16]],
        stackwise_pooling=[True, False],
        image_shape=(SIDE, SIDE, 3),
    ), _images()


@_model("HGNetV2")
def _hgnet():
    return M.HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=8,
        hidden_sizes=[16, 32],
        stem_channels=[3, 8, 16],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[[16, 8, 16, 1, 2, 3], [16, 16, 32, 1, 2, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=(SIDE, SIDE, 3),
    ), _images()


@_model("MobileNet")
def _mobilenet():
    return M.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=32,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=64,
        image_shape=(SIDE, SIDE, 3),
    ), _images()


@_model("EfficientNet")
def _efficientnet():
    return M.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 1, 1],
        stackwise_input_filters=[16, 16, 24],
        stackwise_output_filters=[16, 24, 32],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.25] * 3,
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1"] * 3,
        input_shape=(SIDE, SIDE, 3),
    ), _images()


# The encoders of two kinds of data; what compares them is left out, see `LEFT_OUT`.
_TOWER = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}


@_model("CLIP's encoder of images")
def _clip_of_images():
    from keras_hub.src.models.clip.clip_layers import CLIPVisionPooler
    from keras_hub.src.models.clip.clip_vision_encoder import CLIPVisionEncoder

    encoder = CLIPVisionEncoder(patch_size=8, image_shape=(32, 32, 3), **_TOWER)
    return keras.Model(encoder.input, CLIPVisionPooler()(encoder.output)), _images(32)


@_model("CLIP's encoder of texts")
def _clip_of_texts():
    from keras_hub.src.models.clip.clip_layers import CLIPTextPooler
    from keras_hub.src.models.clip.clip_text_encoder import CLIPTextEncoder

    encoder = CLIPTextEncoder(VOCABULARY, 16, max_sequence_length=LENGTH, **_TOWER)
    ids = encoder.input["token_ids"]
    return keras.Model(encoder.input, CLIPTextPooler()(encoder.output, ids)), {"token_ids": tokens()[0]}


@_model("SigLIP's encoder of images")
def _siglip_of_images():
    from keras_hub.src.models.siglip.siglip_vision_encoder import SigLIPVisionEncoder

    return SigLIPVisionEncoder(patch_size=8, image_shape=(32, 32, 3), **_TOWER), _images(32)


@_model("SigLIP's encoder of texts")
def _siglip_of_texts():
    from keras_hub.src.models.siglip.siglip_text_encoder import SigLIPTextEncoder

    return SigLIPTextEncoder(VOCABULARY, 16, max_sequence_length=LENGTH, **_TOWER), {"token_ids": tokens()[0]}


@_model("Depth Anything")
def _depth_anything():
    encoder = M.DINOV2Backbone(
        patch_size=4,
        num_layers=4,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        image_shape=(32, 32, 3),
        apply_layernorm=True,
    )
    backbone = M.DepthAnythingBackbone(
        image_encoder=encoder,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[8, 8, 8, 8],
        fusion_hidden_dim=8,
        head_hidden_dim=8,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )
    return backbone, _images(32)


@_model("Moonshine")
def _moonshine():
    backbone = M.MoonshineBackbone(
        vocabulary_size=VOCABULARY,
        filter_dim=16,
        encoder_num_layers=2,
        decoder_num_layers=2,
        hidden_dim=16,
        intermediate_dim=32,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )
    ids, mask = tokens()
    sound = np.random.default_rng(0).normal(size=(8, 2048, 1)).astype("float32")
    return backbone, {
        "encoder_input_values": sound,
        "encoder_padding_mask": np.ones((8, 2048), "int32"),
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }


@_model("ViT classifier")
def _vit_classifier():
    return M.ViTImageClassifier(backbone=_vit()[0], num_classes=4, preprocessor=None), _images(32)


@_model("SegFormer segmenter")
def _segformer_segmenter():
    return M.SegFormerImageSegmenter(backbone=_segformer()[0], num_classes=3, preprocessor=None), _images()


@_model("DeepLabV3 segmenter")
def _deeplab_segmenter():
    return M.DeepLabV3ImageSegmenter(backbone=_deeplab()[0], num_classes=3, preprocessor=None), _images()


def settle(model, seed=1):
    """Weights as training leaves them: no vector all zeros or ones, no table or token smaller than what is beside it."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if not weight.dtype.startswith("float"):
            continue
        if "embeddings" in weight.path or weight.path.endswith("token"):
            weight.assign(rng.normal(size=weight.shape))
        elif len(weight.shape) == 1:
            positive = any(word in weight.path for word in ("gamma", "variance", "scale"))
            weight.assign(rng.uniform(*((0.5, 1.5) if positive else (-0.3, 0.3)), weight.shape))
