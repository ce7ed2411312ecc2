"""Records what PyTorch computes, for the tests of the networks and of the weight files.

python tests/record_fixtures.py     in an environment with requirements-dev.txt and requirements-oracle.txt

Weights are stored in float32, everything that is computed from them is computed in float64.
"""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch_oracle import narrow_resnext, narrow_vgg16, normalised, randomise_norms

FIXTURES = Path(__file__).parent / "fixtures"
GRADIENTS = ("conv1.weight", "layer1.0.downsample.1.weight", "layer2.0.conv2.weight", "layer4.0.bn3.bias", "fc.weight")


def _image(batch: int, size_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, size_px, size_px, 3), np.uint8)


def record_resnext() -> None:
    """A narrow ResNeXt: logits and features, and one training pass with its gradients and running statistics."""
    network = narrow_resnext(blocks=(2, 1, 1, 1), cardinality=4, width_per_group=32, base_filters=4)
    randomise_norms(network)
    torch.save(network.state_dict(), FIXTURES / "resnext_narrow.pth")
    image = _image(batch=2, size_px=64)
    network = network.double().eval()
    recorded = {"image": image}
    with torch.no_grad():
        recorded["eval.features"] = network.forward_features(normalised(image)).permute(0, 2, 3, 1).numpy()
        recorded["eval.logits"] = network(normalised(image)).numpy()
    network.train()
    logits = network(normalised(image))
    weight = torch.linspace(-1, 1, logits.numel()).double().reshape(logits.shape)
    (logits * weight).sum().backward()
    recorded |= {"train.logits": logits.detach().numpy(), "loss_weight": weight.numpy()}
    parameters = dict(network.named_parameters())
    recorded |= {f"gradient.{name}": parameters[name].grad.numpy() for name in GRADIENTS}
    recorded |= {f"running.{name}": value.numpy() for name, value in network.named_buffers() if "running" in name}
    np.savez_compressed(FIXTURES / "resnext_narrow.npz", **recorded)


def record_vgg16() -> None:
    """A narrow VGG16's last feature."""
    network = narrow_vgg16(filters=(4, 4, 8, 8, 8))
    safetensors.torch.save_file(network.state_dict(), FIXTURES / "vgg16_narrow.safetensors")
    image = _image(batch=2, size_px=64)
    with torch.no_grad():
        pool5 = network.double()(normalised(image)).permute(0, 2, 3, 1).numpy()
    np.savez_compressed(FIXTURES / "vgg16_narrow.npz", image=image, pool5=pool5)


def record_torch_files() -> None:
    """Tensors of every kind that a weight file may hold, in both of PyTorch's formats."""
    whole = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {
        "whole": whole,
        "transposed": whole.transpose(0, 2),
        "slice": whole[1, 1:, ::2],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, 2.5])),
    }
    torch.save(tensors, FIXTURES / "tensors.pth")
    torch.save(tensors, FIXTURES / "tensors_legacy.pth", _use_new_zipfile_serialization=False)
    np.savez(FIXTURES / "tensors.npz", **{name: tensor.detach().numpy() for name, tensor in tensors.items()})


if __name__ == "__main__":
    torch.manual_seed(0)
    FIXTURES.mkdir(exist_ok=True)
    record_resnext()
    record_vgg16()
    record_torch_files()
