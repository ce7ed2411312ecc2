"""The convolutional part of VGG (Simonyan and Zisserman 2015; configuration D is VGG16), the encoder of the paper."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.layers import BatchNorm, rematerialise, stop_gradient_if
from pldmlt_jax.models.weight_gradients import select_convolution


class VGG(nn.Module):
    """Blocks of 3x3 convolutions with ReLU, each followed by a 2x2 max-pool.

    Attributes:
        filters: Channels of each block; (64, 128, 256, 512, 512) is VGG16.
        convs: Convolutions in each block; (2, 2, 3, 3, 3) is VGG16, with 14,714,688 parameters.
        pool_last: Whether the last block is pooled too (pool5). Graders leave it out, which makes Grad-CAM finer.
        frozen_stages: Number of leading blocks that receive no gradient and keep their running statistics.
        norm: Whether batch normalisation follows each convolution, as in torchvision's vgg16_bn. VGG16 and the paper have
            none. A narrow network without pretrained weights trains much faster with it.
        rematerialisation: A key of `REMATERIALISATIONS`, applied to each block.
        weight_gradients: One of `WEIGHT_GRADIENTS`.
        dtype: Data type of the activations. Parameters are float32.

    Parameters are named `conv{block}_{i}`, both counted from 1.
    """

    filters: tuple[int, ...] = (64, 128, 256, 512, 512)
    convs: tuple[int, ...] = (2, 2, 3, 3, 3)
    pool_last: bool = True
    frozen_stages: int = 0
    norm: bool = False
    rematerialisation: str = "none"
    weight_gradients: str = "xla"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b ..."], ...]:
        """Maps a normalised image to its features.

        Args:
            image: Normalised as the weights expect it (`normalise`). Height and width are multiples of 2**blocks.
            train: Whether batch normalisation, if any, uses the statistics of the batch and updates the running ones.

        Returns:
            The output of each block at strides 1, 2, 4, 8, 16, and pool5 at stride 32 if `pool_last` is set.
        """

        def convolutions(mdl: nn.Module, x: Array, block: int) -> Array:
            for i in range(1, self.convs[block - 1] + 1):
                x = nn.Conv(
                    self.filters[block - 1], (3, 3), dtype=self.dtype, kernel_init=nn.initializers.he_normal(),
                    conv_general_dilated=select_convolution(self.weight_gradients, train), name=f"conv{block}_{i}",
                )(x)  # fmt: skip
                if self.norm:
                    x = BatchNorm(dtype=self.dtype, name=f"norm{block}_{i}")(x, train and block > self.frozen_stages)
                x = nn.relu(x)
            return x

        features = []
        x = image.astype(self.dtype)
        for block in range(1, len(self.filters) + 1):
            x = rematerialise(partial(convolutions, block=block), self.rematerialisation)(self, x)
            x = stop_gradient_if(block <= self.frozen_stages, x)
            features.append(x)
            if block < len(self.filters) or self.pool_last:
                x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
        if self.pool_last:
            features.append(x)
        return tuple(features)
