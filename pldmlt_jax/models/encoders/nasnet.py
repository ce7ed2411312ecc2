"""NASNet-A Mobile (4 @ 1056) as in Keras (Zoph et al. 2018), for graders. Modules have the names of Keras' layers."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from pldmlt_jax.models.grouped_convolutions import DepthwiseConv
from pldmlt_jax.models.layers import BatchNorm, stop_gradient_if

PADDING = tuple[tuple[int, int], tuple[int, int]]


def stride_padding(x: Float[Array, "b h w c"], kernel_size: int) -> PADDING:
    """Returns Keras' padding ((top, bottom), (left, right)) for a kernel at stride 2: one pixel less before an even size."""
    half = kernel_size // 2
    top, left = (half - 1 + size % 2 for size in x.shape[1:3])
    return (top, half), (left, half)


def _average_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


class SeparableConv(nn.Module):
    """Keras' SeparableConv2D without bias. Parameters are `depthwise/kernel` and `pointwise/kernel`."""

    features: int
    kernel_size: int
    strided: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        stride, padding = (2, stride_padding(x, self.kernel_size)) if self.strided else (1, None)
        x = DepthwiseConv(self.kernel_size, stride, padding=padding, dtype=self.dtype, name="depthwise")(x)
        return nn.Conv(self.features, (1, 1), use_bias=False, dtype=self.dtype, name="pointwise")(x)


class NASNet(nn.Module):
    """A stem and three groups of normal cells, with a reduction cell before each group except the first.

    Attributes:
        filters: Channels of a normal cell's branches in the first group; 44 in NASNet-Mobile.
        stem_filters: Channels of the first convolution.
        cells: Number of normal cells in a group.
        frozen_stages: Number of leading stages (which end at strides 2, 4, 8, 16, 32) that receive no gradient and keep
            their running statistics.
        momentum: Decay of the running statistics. Keras' 0.9997 needs about ten thousand steps to converge.
        dtype: Data type of the activations. Parameters are float32.
    """

    filters: int = 44
    stem_filters: int = 32
    cells: int = 4
    frozen_stages: int = 0
    momentum: float = 0.9997
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> tuple[Float[Array, "b ..."], ...]:
        """Maps an image in [-1, 1] to its features.

        Args:
            image: Normalised by the scheme "tf" (`normalise`), of any size from 32 px.
            train: Whether batch normalisation uses the statistics of the batch and updates the running ones.

        Returns:
            The outputs of the first convolution, the two stem cells and the groups, at strides 2, 4, 8, 8, 16, 32.
        """
        trains = [train and stage > self.frozen_stages for stage in range(1, 6)]
        x = self._conv(image.astype(self.dtype), self.stem_filters, "stem_conv1", "stem_bn1", trains[0], stem=True)
        x = self._freeze(x, 1)
        features, before = [x], None
        for i, divisor in ((1, 4), (2, 2)):
            x, before = self._reduction_cell(x, before, self.filters // divisor, f"stem_{i}", trains[i])
            x, before = self._freeze(x, i + 1), self._freeze(before, i + 1)
            features.append(x)
        for group in range(3):
            width, stage, first = self.filters * 2**group, group + 2, group * self.cells + min(group, 1)
            if group:
                x, before = self._reduction_cell(x, before, width, f"reduce_{group * self.cells}", trains[stage])
            for cell in range(self.cells):
                x, before = self._normal_cell(x, before, width, f"{first + cell}", trains[stage])
            x, before = self._freeze(x, stage + 1), self._freeze(before, stage + 1)
            features.append(x)
        return (*features[:-1], nn.relu(features[-1]))

    def _freeze(self, x: Array, stage: int) -> Array:
        return stop_gradient_if(stage <= self.frozen_stages, x)

    def _norm(self, x: Array, name: str, train: bool) -> Array:
        return BatchNorm(self.momentum, 1e-3, self.dtype, unbiased=False, name=name)(x, train)

    def _conv(self, x: Array, features: int, name: str, norm: str, train: bool, *, stem: bool = False) -> Array:
        size, stride = (3, 2) if stem else (1, 1)
        start = nn.initializers.he_normal()
        layer = nn.Conv(
            features, (size, size), (stride, stride), "VALID", use_bias=False, dtype=self.dtype, kernel_init=start, name=name
        )
        return self._norm(layer(x), norm, train) if norm else layer(x)

    def _separable(
        self, x: Array, features: int, kernel_size: int, name: str, train: bool, *, strided: bool = False
    ) -> Array:
        for i, halves in ((1, strided), (2, False)):
            layer = SeparableConv(features, kernel_size, halves, self.dtype, name=f"separable_conv_{i}_{name}")
            x = self._norm(layer(nn.relu(x)), f"separable_conv_{i}_bn_{name}", train)
        return x

    def _adjust(self, before: Array | None, x: Array, features: int, name: str, train: bool) -> Array:
        """Returns the feature before `x`, at the size of `x` and with the cell's channels."""
        if before is None:
            return x
        if before.shape[2] != x.shape[2]:
            before = nn.relu(before)
            shifted = jnp.pad(before[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
            halves = [
                self._conv(part[:, ::2, ::2], features // 2, f"adjust_conv_{i}_{name}", "", train)
                for i, part in ((1, before), (2, shifted))
            ]
            return self._norm(jnp.concatenate(halves, axis=-1), f"adjust_bn_{name}", train)
        if before.shape[-1] != features:
            return self._conv(nn.relu(before), features, f"adjust_conv_projection_{name}", f"adjust_bn_{name}", train)
        return before

    def _normal_cell(self, x: Array, before: Array | None, features: int, name: str, train: bool) -> tuple[Array, Array]:
        p = self._adjust(before, x, features, name, train)
        h = self._conv(nn.relu(x), features, f"normal_conv_1_{name}", f"normal_bn_1_{name}", train)

        def separable(source: Array, kernel_size: int, place: str) -> Array:
            return self._separable(source, features, kernel_size, f"normal_{place}_{name}", train)

        branches = [
            p,
            separable(h, 5, "left1") + separable(p, 3, "right1"),
            separable(p, 5, "left2") + separable(p, 3, "right2"),
            _average_3x3(h) + p,
            2 * _average_3x3(p),
            separable(h, 3, "left5") + h,
        ]
        return jnp.concatenate(branches, axis=-1), x

    def _reduction_cell(self, x: Array, before: Array | None, features: int, name: str, train: bool) -> tuple[Array, Array]:
        p = self._adjust(before, x, features, name, train)
        h = self._conv(nn.relu(x), features, f"reduction_conv_1_{name}", f"reduction_bn_1_{name}", train)
        padded = jnp.pad(h, ((0, 0), *stride_padding(h, 3), (0, 0)))
        largest = nn.max_pool(padded, (3, 3), strides=(2, 2))

        def separable(source: Array, kernel_size: int, place: str, *, strided: bool = True) -> Array:
            return self._separable(source, features, kernel_size, f"reduction_{place}_{name}", train, strided=strided)

        first = separable(h, 5, "left1") + separable(p, 7, "right1")
        second = largest + separable(p, 7, "right2")
        branches = [
            second,
            nn.avg_pool(padded, (3, 3), strides=(2, 2)) + separable(p, 5, "right3"),
            second + _average_3x3(first),
            separable(first, 3, "left4", strided=False) + largest,
        ]
        return jnp.concatenate(branches, axis=-1), x
