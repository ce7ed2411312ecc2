"""ResNet and ResNeXt encoders as in torchvision (He et al. 2016; Xie et al. 2017)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.errors import ConfigError
from pldmlt_jax.models.layers import ConvNorm, max_pool, rematerialise, stop_gradient_if

EXPANSION = 4
"""Ratio of a bottleneck block's output channels to its nominal `planes`."""

LAST_STAGE = 3
"""Index of the stage that `dilate_last` dilates."""


class Architecture(NamedTuple):
    """What distinguishes the published ResNets."""

    blocks: tuple[int, ...]
    """Number of blocks in each stage."""
    bottleneck: bool = True
    """Whether the blocks are bottlenecks rather than basic blocks."""
    cardinality: int = 1
    """Groups of a bottleneck's 3x3 convolution."""
    width_per_group: int = 64
    """Channels of a group at 64 planes."""


RESNETS: dict[str, Architecture] = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3)),
    "resnet101": Architecture((3, 4, 23, 3)),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), cardinality=32, width_per_group=4),
    "resnext101_32x8d": Architecture((3, 4, 23, 3), cardinality=32, width_per_group=8),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is projected if shapes differ. Attributes as in `Bottleneck`."""

    planes: int
    stride: int = 1
    dilation: int = 1
    frozen: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 f"]:
        shared = {"frozen": self.frozen, "dtype": self.dtype}
        y = ConvNorm(self.planes, 3, self.stride, dilation=self.dilation, **shared, name="conv1")(x, train)
        y = ConvNorm(self.planes, 3, relu=False, dilation=self.dilation, **shared, name="conv2")(y, train)
        if self.stride != 1 or x.shape[-1] != self.planes:
            x = ConvNorm(self.planes, 1, self.stride, relu=False, **shared, name="downsample")(x, train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped, strided) and 1x1 convolution with a shortcut, which is projected if shapes differ.

    Attributes:
        planes: Nominal width. The block outputs `EXPANSION` times as many channels.
        width: Channels of the 3x3 convolution.
        cardinality: Groups of the 3x3 convolution.
        stride: Stride of the 3x3 convolution.
        dilation: Dilation of the 3x3 convolution.
        frozen: Whether batch normalisation uses the running statistics during training too.
        implementation: Implementation of the grouped convolution, see `GroupedConv`.
        dtype: Data type of the activations.
    """

    planes: int
    width: int
    cardinality: int
    stride: int = 1
    dilation: int = 1
    frozen: bool = False
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 f"]:
        features = self.planes * EXPANSION
        shared = {"frozen": self.frozen, "dtype": self.dtype}
        y = ConvNorm(self.width, 1, **shared, name="conv1")(x, train)
        y = ConvNorm(
            self.width,
            3,
            self.stride,
            self.cardinality,
            implementation=self.implementation,
            dilation=self.dilation,
            **shared,
            name="conv2",
        )(y, train)
        y = ConvNorm(features, 1, relu=False, **shared, name="conv3")(y, train)
        if self.stride != 1 or x.shape[-1] != features:
            x = ConvNorm(features, 1, self.stride, relu=False, **shared, name="downsample")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem and four stages of blocks.

    Attributes:
        blocks: Number of blocks in each stage.
        cardinality: Groups of the 3x3 convolutions.
        width_per_group: Channels of a group in the first stage at 64 base filters.
        base_filters: Channels of the stem.
        frozen_stages: Number of leading stages (the stem is the first) that receive no gradient and keep their running
            statistics.
        implementation: Implementation of the grouped convolutions, see `GroupedConv`.
        dtype: Data type of the activations. Parameters are float32.
        bottleneck: Whether the blocks are bottlenecks rather than basic blocks (ResNet-18 and -34).
        dilate_last: Whether the last stage keeps stride 16 and dilates all its 3x3 kernels by 2 instead, as in encoders of
            output stride 16 in segmentation_models.pytorch.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to each block.
    """

    blocks: tuple[int, ...]
    cardinality: int
    width_per_group: int
    base_filters: int = 64
    frozen_stages: int = 0
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32
    bottleneck: bool = True
    dilate_last: bool = False
    rematerialisation: str = "none"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b ..."], ...]:
        """Maps a normalised image to its features.

        Args:
            image: Normalised as the weights expect it (`normalise`). Height and width are multiples of 32.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.

        Returns:
            The stem's output at stride 2 and the stages' outputs at strides 4, 8, 16, 32 (16 if dilated).
        """

        def block_of(mdl: "ResNet", x: Array, stage: int, i: int) -> Array:
            return mdl._block(stage, i)(x, train)

        x = ConvNorm(self.base_filters, 7, 2, frozen=self.frozen_stages >= 1, dtype=self.dtype, name="stem")(
            image.astype(self.dtype), train
        )
        features = [stop_gradient_if(self.frozen_stages >= 1, x)]
        x = max_pool(features[0], size=3, stride=2, padding=1)
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                x = rematerialise(partial(block_of, stage=stage, i=i), self.rematerialisation)(self, x)
            x = stop_gradient_if(self.frozen_stages >= stage + 2, x)
            features.append(x)
        return tuple(features)

    def _block(self, stage: int, i: int) -> nn.Module:
        planes = self.base_filters * 2**stage
        dilated = self.dilate_last and stage == LAST_STAGE
        shared = {
            "stride": 2 if stage > 0 and i == 0 and not dilated else 1,
            "dilation": 2 if dilated else 1,
            "frozen": self.frozen_stages >= stage + 2,
            "dtype": self.dtype,
            "name": f"layer{stage + 1}_{i}",
        }
        if not self.bottleneck:
            return BasicBlock(planes, **shared)
        width = int(planes * self.width_per_group / 64) * self.cardinality
        return Bottleneck(planes, width, self.cardinality, implementation=self.implementation, **shared)


def make_resnet(
    name: str,
    base_filters: int = 64,
    max_blocks: int = 0,
    *,
    field: str = "grader.base_filters",
    **attributes: Any,
) -> ResNet:
    """Makes a ResNet or ResNeXt by name.

    Args:
        name: A key of `RESNETS`.
        base_filters: Channels of the stem; 64 in the published network.
        max_blocks: Largest number of blocks in a stage; 0 for the network's own depth.
        field: The config field that `base_filters` comes from, for the error.
        attributes: Further attributes of `ResNet`.

    Raises:
        ConfigError: `base_filters` leaves less than one channel to a group.
    """
    blocks, bottleneck, cardinality, width_per_group = RESNETS[name]
    if base_filters * width_per_group < 64:
        raise ConfigError(
            field,
            f"{base_filters}, which leaves less than one channel to each of {name}'s {cardinality} groups",
            f"at least {64 // width_per_group}",
            "raise it or choose another architecture",
        )
    if max_blocks:
        blocks = tuple(min(count, max_blocks) for count in blocks)
    return ResNet(blocks, cardinality, width_per_group, base_filters, bottleneck=bottleneck, **attributes)
