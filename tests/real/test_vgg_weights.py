"""ImageNet VGG16 on a real photograph, against what PyTorch gives for the same file and photograph.

The means of pool5 were computed by torchvision's VGG16. Its weights give a small one where the preprocessing is right,
and one near 3 under Keras' preprocessing: the size of the features alone does not tell right from wrong.
"""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pldmlt_jax.models.encoders.vgg import VGG
from pldmlt_jax.models.input_normalisation import normalise
from pldmlt_jax.models.weights.load import load_weights

pytestmark = pytest.mark.slow

PHOTOGRAPH = "IDRiD/A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg"


@pytest.fixture(scope="module")
def photograph(shared_data: Path) -> np.ndarray:
    bgr = cv2.imread(str(shared_data / PHOTOGRAPH))
    return cv2.cvtColor(cv2.resize(bgr, (224, 224), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)[None]


@pytest.mark.parametrize(("scheme", "pool5_mean"), [("torch", 0.1769), ("caffe", 3.0452), ("none", 0.1412)])
def test_pool5_of_a_photograph_equals_torchvisions(
    scheme: str, pool5_mean: float, shared_weights: Path, photograph: np.ndarray
) -> None:
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda key: VGG().init(key, image, False), jax.random.key(0))
    loaded = load_weights(shared_weights / "vgg16_imagenet_torchvision.safetensors", "vgg16", shapes)
    assert loaded.num_tensors == 26
    assert sum(leaf.size for leaf in jax.tree.leaves(loaded.variables)) == 14_714_688
    features = jax.jit(lambda x: VGG().apply(loaded.variables, x, False))(normalise(photograph, scheme))
    np.testing.assert_allclose(features[-1].mean(), pool5_mean, rtol=2e-3)
