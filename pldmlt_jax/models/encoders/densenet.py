"""DenseNet-BC encoders as torchvision has them (Huang et al. 2017)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.layers import BatchNorm, ConvNorm, GroupedConv, max_pool, rematerialise

BOTTLENECK = 4
"""Channels of a layer's 1x1 convolution over those that the layer adds."""

DENSENETS: dict[str, tuple[int, ...]] = {
    "densenet121": (6, 12, 24, 16),
    "densenet201": (6, 12, 48, 32),
}
"""Name -> layers of each block."""


class NormConv(nn.Module):
    """Batch normalisation, ReLU, convolution."""

    features: int
    kernel_size: int
    frozen: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w f"]:
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train and not self.frozen))
        return GroupedConv(self.features, 1, self.kernel_size, dtype=self.dtype, name="conv")(x)


class DenseNet(nn.Module):
    """Stem and blocks whose layers each add channels to all that came before, with a transition between blocks.

    Attributes:
        blocks: Number of layers in each block.
        base_filters: Channels of the stem, twice those that a layer adds.
        frozen_stages: So many leading stages (the stem is the first) receive no gradient and keep their statistics.
        final_relu: Whether the last feature passes a ReLU, as before torchvision's classifier. As an encoder,
            segmentation_models.pytorch leaves it out; Keras' library has it.
        rematerialisation: Of each layer, a key of `REMATERIALISATIONS`.
        dtype: Of the activations; parameters are float32.
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
            image: Normalised as the weights expect it (`layers.normalise`); height and width divisible by 32.
            train: Whether batch normalisation uses the batch's statistics and updates the running ones.

        Returns:
            The stem's output at stride 2, the first three blocks at strides 4, 8, 16 after their transition's ReLU, and
            the last block at stride 32.
        """
        growth = self.base_filters // 2

        def layer(mdl: nn.Module, x: Array, name: str, frozen: bool) -> Array:
            y = NormConv(BOTTLENECK * growth, 1, frozen, self.dtype, name=f"{name}_1")(x, train)
            y = NormConv(growth, 3, frozen, self.dtype, name=f"{name}_2")(y, train)
            return jnp.concatenate([x, y], axis=-1)

        frozen = self.frozen_stages >= 1
        x = ConvNorm(self.base_filters, 7, 2, frozen=frozen, dtype=self.dtype, name="stem")(image.astype(self.dtype), train)
        features = [jax.lax.stop_gradient(x) if frozen else x]
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
            x = jax.lax.stop_gradient(x) if frozen else x
            features.append(x)
            if not last:
                x = GroupedConv(x.shape[-1] // 2, 1, 1, dtype=self.dtype, name=f"transition{block}_conv")(x)
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return tuple(features)


def make_densenet(name: str, base_filters: int = 64, max_blocks: int = 0, **attributes: Any) -> DenseNet:
    """A DenseNet by name.

    Args:
        name: A key of `DENSENETS`.
        base_filters: Channels of the stem; 64 is the published network.
        max_blocks: At most so many layers a block, 0 = the network's own depth.
        attributes: Further ones of `DenseNet`.
    """
    blocks = tuple(min(count, max_blocks or count) for count in DENSENETS[name])
    return DenseNet(blocks, base_filters, **attributes)
