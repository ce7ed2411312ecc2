"""ResNet and ResNeXt encoders with bottleneck blocks, as torchvision has them (He et al. 2016; Xie et al. 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.errors import ConfigError
from pldmlt_jax.models.layers import ConvNorm, max_pool

EXPANSION = 4
"""Output channels of a bottleneck block over its nominal `planes`."""

RESNETS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "resnet50": ((3, 4, 6, 3), 1, 64),
    "resnet101": ((3, 4, 23, 3), 1, 64),
    "resnext50_32x4d": ((3, 4, 6, 3), 32, 4),
    "resnext101_32x8d": ((3, 4, 23, 3), 32, 8),
}
"""Name -> blocks of each stage, cardinality (groups of the 3x3 convolution), width of a group at 64 planes."""


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped, strided) and 1x1 convolution with a shortcut, which is projected where shapes differ.

    Attributes:
        planes: Nominal width; the block gives `EXPANSION` times as many channels.
        width: Channels of the 3x3 convolution.
        cardinality: Its groups.
    """

    planes: int
    width: int
    cardinality: int
    stride: int = 1
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
            **shared,
            name="conv2",
        )(y, train)
        y = ConvNorm(features, 1, relu=False, **shared, name="conv3")(y, train)
        if self.stride != 1 or x.shape[-1] != features:
            x = ConvNorm(features, 1, self.stride, relu=False, **shared, name="downsample")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem and four stages of bottleneck blocks.

    Attributes:
        blocks: Number of blocks in each stage.
        cardinality: Groups of the 3x3 convolutions.
        width_per_group: Channels of a group in the first stage at 64 base filters.
        base_filters: Channels of the stem.
        frozen_stages: So many leading stages (the stem is the first) receive no gradient and keep their statistics.
        implementation: Of the grouped convolutions, see `layers.GroupedConv`.
        dtype: Of the activations; parameters are float32.
    """

    blocks: tuple[int, ...]
    cardinality: int
    width_per_group: int
    base_filters: int = 64
    frozen_stages: int = 0
    implementation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b ..."], ...]:
        """Maps a normalised image to its features.

        Args:
            image: Normalised as the weights expect it (`layers.normalise`); height and width divisible by 32.
            train: Whether batch normalisation uses the batch's statistics and updates the running ones.

        Returns:
            The stem's output at stride 2 and those of the four stages at strides 4, 8, 16, 32.
        """
        x = ConvNorm(self.base_filters, 7, 2, frozen=self.frozen_stages >= 1, dtype=self.dtype, name="stem")(
            image.astype(self.dtype), train
        )
        features = [self._maybe_freeze(x, stage=1)]
        x = max_pool(features[0], size=3, stride=2, padding=1)
        for stage, blocks in enumerate(self.blocks):
            for i in range(blocks):
                x = self._block(stage, i)(x, train)
            x = self._maybe_freeze(x, stage=stage + 2)
            features.append(x)
        return tuple(features)

    def _block(self, stage: int, i: int) -> Bottleneck:
        planes = self.base_filters * 2**stage
        return Bottleneck(
            planes=planes,
            width=int(planes * self.width_per_group / 64) * self.cardinality,
            cardinality=self.cardinality,
            stride=2 if stage > 0 and i == 0 else 1,
            frozen=self.frozen_stages >= stage + 2,
            implementation=self.implementation,
            dtype=self.dtype,
            name=f"layer{stage + 1}_{i}",
        )

    def _maybe_freeze(self, x: Array, stage: int) -> Array:
        return jax.lax.stop_gradient(x) if stage <= self.frozen_stages else x


def make_resnet(
    name: str,
    base_filters: int = 64,
    max_blocks: int = 0,
    frozen_stages: int = 0,
    implementation: str = "auto",
    dtype: DTypeLike = jnp.float32,
) -> ResNet:
    """A ResNet or ResNeXt by name.

    Args:
        name: A key of `RESNETS`.
        base_filters: Channels of the stem; 64 is the published network.
        max_blocks: At most so many blocks a stage, 0 = the network's own depth.
        frozen_stages: See `ResNet`.
        implementation: See `ResNet`.
        dtype: See `ResNet`.

    Raises:
        ConfigError: `base_filters` leaves less than one channel to a group.
    """
    blocks, cardinality, width_per_group = RESNETS[name]
    if base_filters * width_per_group < 64:
        raise ConfigError(
            "grader.base_filters",
            f"{base_filters}, which leaves less than one channel to each of {name}'s {cardinality} groups",
            f"at least {64 // width_per_group}",
            "raise it or choose another architecture",
        )
    if max_blocks:
        blocks = tuple(min(count, max_blocks) for count in blocks)
    return ResNet(blocks, cardinality, width_per_group, base_filters, frozen_stages, implementation, dtype)
