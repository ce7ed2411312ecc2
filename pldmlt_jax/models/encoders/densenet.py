"""DenseNet-BC encoders as in torchvision (Huang et al. 2017)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.grouped_convolutions import GroupedConv
from pldmlt_jax.models.layers import BatchNorm, ConvNorm, max_pool, rematerialise, stop_gradient_if

BOTTLENECK = 4
"""Ratio of the channels of a layer's 1x1 convolution to those that the layer adds."""

DENSENETS: dict[str, tuple[int, ...]] = {
    "densenet121": (6, 12, 24, 16),
    "densenet201": (6, 12, 48, 32),
}
"""Number of layers in each block, by name."""


class NormConv(nn.Module):
    """Batch normalisation, ReLU and convolution, in this order."""

    features: int
    kernel_size: int
    frozen: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w f"]:
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train and not self.frozen))
        return GroupedConv(self.features, 1, self.kernel_size, dtype=self.dtype, name="conv")(x)


class DenseNet(nn.Module):
    """A stem and blocks whose layers add channels to all earlier ones, with a transition between blocks.

    Attributes:
        blocks: Number of layers in each block.
        base_filters: Channels of the stem, twice those that a layer adds.
        frozen_stages: Number of leading stages (the stem is the first) that receive no gradient and keep their running
            statistics.
        final_relu: Whether a ReLU follows the last normalisation, as in torchvision's classifier and in segmentation_models
            for Keras. The encoder of segmentation_models.pytorch has none.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to each layer.
        dtype: Data type of the activations. Parameters are float32.
    """

    blocks: tuple[int, ...]
    base_filters: int = 64
    frozen_stages: int = 0
    final_relu: bool = False
    rematerialisation: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b ..."], ...]:
        """Maps a normalised image to its features.

        Args:
            image: Normalised as the weights expect it (`normalise`). Height and width are multiples of 32.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.

        Returns:
            The stem's output at stride 2, the first three blocks' outputs at strides 4, 8, 16, taken after the ReLU of
            the transition, and the last block's output at stride 32.
        """
        growth = self.base_filters // 2

        def layer(mdl: nn.Module, x: Array, name: str, frozen: bool) -> Array:
            y = NormConv(BOTTLENECK * growth, 1, frozen, self.dtype, name=f"{name}_1")(x, train)
            y = NormConv(growth, 3, frozen, self.dtype, name=f"{name}_2")(y, train)
            return jnp.concatenate([x, y], axis=-1)

        frozen = self.frozen_stages >= 1
        x = ConvNorm(self.base_filters, 7, 2, frozen=frozen, dtype=self.dtype, name="stem")(image.astype(self.dtype), train)
        features = [stop_gradient_if(frozen, x)]
        x = max_pool(features[0], size=3, stride=2, padding=1)
        for block, layers in enumerate(self.blocks, start=1):
            frozen = self.frozen_stages >= block + 1
            for i in range(1, layers + 1):
                step = partial(layer, name=f"block{block}_{i}", frozen=frozen)
                x = rematerialise(step, self.rematerialisation)(self, x)
            last = block == len(self.blocks)
            norm = BatchNorm(dtype=self.dtype, name="norm5" if last else f"transition{block}_norm")
            x = norm(x, train and not frozen)
            x = nn.relu(x) if self.final_relu or not last else x
            x = stop_gradient_if(frozen, x)
            features.append(x)
            if not last:
                x = GroupedConv(x.shape[-1] // 2, 1, 1, dtype=self.dtype, name=f"transition{block}_conv")(x)
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return tuple(features)


def make_densenet(name: str, base_filters: int = 64, max_blocks: int = 0, **attributes: Any) -> DenseNet:
    """Makes a DenseNet by name.

    Args:
        name: A key of `DENSENETS`.
        base_filters: Channels of the stem; 64 in the published network.
        max_blocks: Largest number of layers in a block; 0 for the network's own depth.
        attributes: Further attributes of `DenseNet`.
    """
    blocks = tuple(min(count, max_blocks or count) for count in DENSENETS[name])
    return DenseNet(blocks, base_filters, **attributes)
