"""ResNet and ResNeXt encoders as torchvision has them (He et al. 2016; Xie et al. 2017)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.errors import ConfigError
from pldmlt_jax.models.layers import ConvNorm, max_pool, rematerialise

EXPANSION = 4
"""Output channels of a bottleneck block over its nominal `planes`."""

LAST_STAGE = 3
"""The one that `dilate_last` is about."""


class Architecture(NamedTuple):
    blocks: tuple[int, ...]  # of each stage
    bottleneck: bool = True  # or basic blocks
    cardinality: int = 1  # groups of the 3x3 convolution of a bottleneck
    width_per_group: int = 64  # of a group at 64 planes


RESNETS: dict[str, Architecture] = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3)),
    "resnet101": Architecture((3, 4, 23, 3)),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), cardinality=32, width_per_group=4),
    "resnext101_32x8d": Architecture((3, 4, 23, 3), cardinality=32, width_per_group=8),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is projected where shapes differ; attributes as of `Bottleneck`."""

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
    """1x1, 3x3 (grouped, strided) and 1x1 convolution with a shortcut, which is projected where shapes differ.

    Attributes:
        planes: Nominal width; the block gives `EXPANSION` times as many channels.
        width: Channels of the 3x3 convolution.
        cardinality: Its groups.
        dilation: Of its kernel.
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
    """Stem and four stages of blocks.

    Attributes:
        blocks: Number of blocks in each stage.
        cardinality: Groups of the 3x3 convolutions.
        width_per_group: Channels of a group in the first stage at 64 base filters.
        base_filters: Channels of the stem.
        frozen_stages: So many leading stages (the stem is the first) receive no gradient and keep their statistics.
        implementation: Of the grouped convolutions, see `layers.GroupedConv`.
        dtype: Of the activations; parameters are float32.
        bottleneck: Whether the blocks are bottlenecks, or basic ones (ResNet-18 and -34).
        dilate_last: Whether the last stage keeps stride 16 and its 3x3 kernels see every second pixel instead, all of
            them, as in segmentation_models.pytorch's encoders of output stride 16.
        rematerialisation: Of each block, a key of `REMATERIALISATIONS`.
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
            image: Normalised as the weights expect it (`layers.normalise`); height and width divisible by 32.
            train: Whether batch normalisation uses the batch's statistics and updates the running ones.

        Returns:
            The stem's output at stride 2 and those of the four stages at strides 4, 8, 16, 32 (16 where dilated).
        """

        def block_of(mdl: "ResNet", x: Array, stage: int, i: int) -> Array:
            return mdl._block(stage, i)(x, train)

        x = ConvNorm(self.base_filters, 7, 2, frozen=self.frozen_stages >= 1, dtype=self.dtype, name="stem")(
            image.astype(self.dtype), train
        )
        features = [self._maybe_freeze(x, stage=1)]
        x = max_pool(features[0], size=3, stride=2, padding=1)
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                x = rematerialise(partial(block_of, stage=stage, i=i), self.rematerialisation)(self, x)
            x = self._maybe_freeze(x, stage=stage + 2)
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

    def _maybe_freeze(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if stage <= self.frozen_stages else x


def make_resnet(
    name: str,
    base_filters: int = 64,
    max_blocks: int = 0,
    *,
    field: str = "grader.base_filters",
    **attributes: Any,
) -> ResNet:
    """A ResNet or ResNeXt by name.

    Args:
        name: A key of `RESNETS`.
        base_filters: Channels of the stem; 64 is the published network.
        max_blocks: At most so many blocks a stage, 0 = the network's own depth.
        field: Of the config, where `base_filters` comes from.
        attributes: Further ones of `ResNet`.

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
