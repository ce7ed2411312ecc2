"""Config of the multi-task network."""

from dataclasses import dataclass

from pldmlt_jax.config.section import ConfigSection, field


@dataclass(unsafe_hash=True)
class ModelConfig(ConfigSection):
    """The multi-task network of stage 2."""

    encoder: str = field("vgg16", "Encoder.", choices="pldmlt_jax.models.build:ENCODERS")
    decoder: str = field("unet", "Decoder.", choices="pldmlt_jax.models.build:DECODERS")
    encoder_filters: tuple[int, ...] = field((64, 128, 256, 512, 512), "Filters of VGG's blocks.", min=1, max=8192)
    encoder_convs: tuple[int, ...] = field((2, 2, 3, 3, 3), "Convolutions of VGG's blocks.", min=1, max=16)
    encoder_norm: bool = field(
        False, "Batch normalisation in VGG, for narrow networks without pretrained weights; the paper's VGG has none."
    )
    encoder_base_filters: int = field(
        64, "Width of the stem of ResNet, ResNeXt and DenseNet (full size: 64).", min=4, max=1024
    )
    encoder_max_blocks: int = field(
        0, "ResNet, ResNeXt and DenseNet: most blocks per stage; 0 = the architecture's depth.", min=0, max=100
    )
    frozen_stages: int = field(
        0, "Leading encoder stages that keep their weights: less computation and fewer weights to fit.", min=0, max=16
    )
    decoder_filters: tuple[int, ...] = field((256, 128, 64, 32, 16), "Filters of U-Net's stages.", min=1, max=8192)
    centre_filters: int = field(
        512,
        "Filters of U-Net's centre block on VGG's pool5. With other encoders there is no such block, as in the reference.",
        min=0,
        max=8192,
    )
    decoder_base_filters: int = field(
        256, "Width of FPN and DeepLabv3+; LinkNet's last block has an eighth of it.", min=16, max=8192
    )
    atrous_rates: tuple[int, ...] = field(
        (12, 24, 36), "Dilations of DeepLabv3+, in pixels at 1/16 of the image size.", min=1, max=1024
    )
    grade_head: str = field(
        "softmax",
        'The paper\'s "softmax", or MTUnet\'s variants "ordinal" and "regression".',
        choices="pldmlt_jax.models.grade_heads:GRADE_HEADS",
    )
    full_res_skip: bool = field(False, "Skip connection at full resolution, which the reference U-Net lacks.")
    decoder_norm: str = field(
        "batch",
        'The paper\'s "batch", or "group", which does not depend on the batch. FPN always uses "group".',
        choices="pldmlt_jax.models.decoders.layers:DECODER_NORMS",
    )
    norm_momentum: float = field(0.99, "Decay of the decoder's running statistics.", min=0, max=0.99999)
    norm_epsilon: float = field(1e-3, "Added to the variance in the decoder's normalisation.", min=1e-8, max=1)
    dtype: str = field(
        "float32",
        "Data type of activations (float64 is for tests); parameters stay float32.",
        choices=("float32", "bfloat16", "float64"),
    )
    rematerialisation: str = field(
        "none",
        '"blocks" or "convs" are computed again in the backward pass, to save memory (not on a CPU).',
        choices="pldmlt_jax.models.layers:REMATERIALISATIONS",
    )
    weight_gradients: str = field(
        "xla",
        "How weight gradients of VGG's and U-Net's 3x3 convolutions are computed; \"bfloat16\" is faster with AMX but needs "
        "more memory.",
        choices="pldmlt_jax.models.weight_gradients:WEIGHT_GRADIENTS",
    )
    weights: str = field(
        "", 'Encoder weights: a .pth, .safetensors or Keras .h5 file, or a published one\'s name; "" = He-normal.'
    )
