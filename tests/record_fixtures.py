"""Records what PyTorch and Keras compute, for the tests of the networks, the weight files and the losses.

python tests/record_fixtures.py     in an environment with requirements-dev.txt and requirements-oracle.txt

Weights are stored in float32, everything that is computed from them is computed in float64.
"""

from pathlib import Path

import keras_oracle
import numpy as np
import safetensors.torch
import torch
from torch_oracle import (
    CHANNELS,
    losses,
    narrow_decoders,
    narrow_densenet,
    narrow_resnet18,
    narrow_resnext,
    narrow_vgg16,
    normalised,
    randomise_norms,
    replace_strides_with_dilation,
    softmax_focal_loss_with_logits,
)

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


def record_torch_grader(network: torch.nn.Module, name: str) -> None:
    """Logits in inference and in training, and the running statistics after it."""
    randomise_norms(network)
    safetensors.torch.save_file(network.state_dict(), FIXTURES / f"{name}.safetensors")
    image = _image(batch=2, size_px=64)
    network = network.double().eval()
    with torch.no_grad():
        recorded = {"image": image, "eval.logits": network(normalised(image)).numpy()}
        recorded["train.logits"] = network.train()(normalised(image)).numpy()
    recorded |= {f"running.{key}": value.numpy() for key, value in network.named_buffers() if "running" in key}
    np.savez_compressed(FIXTURES / f"{name}.npz", **recorded)


def record_dilated_resnet() -> None:
    """The last feature of the narrow ResNet-18 where its last stage keeps stride 16."""
    network = narrow_resnet18(base_filters=4)
    network.load_state_dict(safetensors.torch.load_file(FIXTURES / "resnet18_narrow.safetensors"))
    replace_strides_with_dilation(network.layer4, 2)
    with torch.no_grad():
        feature = network.double().eval().forward_features(normalised(_image(batch=2, size_px=64)))
    np.savez_compressed(FIXTURES / "resnet18_dilated.npz", feature=feature.permute(0, 2, 3, 1).numpy())


def record_decoders() -> None:
    """Weights by the original's names, features, logits in inference and in training, running statistics after it."""
    for name, (decoder, head) in narrow_decoders().items():
        network = torch.nn.ModuleDict({"decoder": decoder, "segmentation_head": head})
        randomise_norms(network)
        recorded = {f"weight.{key}": value.numpy().copy() for key, value in network.state_dict().items()}
        strides = (1, 2, 4, 8, 16, 16 if name == "deeplabv3plus" else 32)
        rng = np.random.default_rng(0)
        shapes = [(2, c, 32 // s, 64 // s) for c, s in zip(CHANNELS, strides, strict=True)]
        features = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        recorded |= {f"feature.{i}": feature.transpose(0, 2, 3, 1) for i, feature in enumerate(features[1:])}
        inputs = [torch.from_numpy(feature).double() for feature in features]
        network = network.double().eval()
        with torch.no_grad():
            recorded["eval.logits"] = head(decoder(inputs)).permute(0, 2, 3, 1).numpy()
            network.train()
            recorded["train.logits"] = head(decoder(inputs)).permute(0, 2, 3, 1).numpy()
        recorded |= {f"running.{key}": value.numpy() for key, value in network.named_buffers() if "running" in key}
        np.savez_compressed(FIXTURES / f"{name}_decoder.npz", **recorded)


def record_keras() -> None:
    """A narrow NASNet: logits in inference and in training, and the running statistics after it; a narrow VGG16's pool5."""
    image = _image(batch=2, size_px=64)
    nasnet = keras_oracle.narrow_nasnet()
    keras_oracle.randomise_norms(nasnet)
    keras_oracle.save_weights(nasnet, FIXTURES / "nasnet_narrow.h5")
    recorded = {"image": image, "eval.logits": keras_oracle.call(nasnet, image / 127.5 - 1, train=False)}
    recorded["train.logits"] = keras_oracle.call(nasnet, image / 127.5 - 1, train=True)
    recorded |= {f"running.{key}": value for key, value in keras_oracle.running_statistics(nasnet).items()}
    np.savez_compressed(FIXTURES / "nasnet_narrow.npz", **recorded)
    vgg = keras_oracle.narrow_vgg16((4, 4, 8, 8, 8))
    keras_oracle.save_weights(vgg, FIXTURES / "vgg16_keras_narrow.h5")
    pool5 = keras_oracle.call(vgg, image[..., ::-1] - np.array([103.939, 116.779, 123.68]), train=False)
    np.savez_compressed(FIXTURES / "vgg16_keras_narrow.npz", image=image, pool5=pool5)


def record_losses() -> None:
    """segmentation_models.pytorch's losses of random logits against random masks."""
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(2, 4, 8, 8)).astype(np.float32)).double()
    y = torch.from_numpy(rng.integers(0, 4, (2, 8, 8)))
    m = torch.from_numpy(rng.random((2, 4, 8, 8)) < 0.3).double()
    smooth = {"smooth": 0.5}  # ours adds 1 to twice what theirs counts
    tversky = {"alpha": 0.3, "beta": 0.7, "gamma": 0.75, "smooth": 1.0}
    absent = m * (torch.arange(4) != 3)[:, None, None]
    per_class = [losses.TverskyLoss("multilabel", classes=[c], **tversky) for c in range(4)]
    dice_per_class = [losses.DiceLoss("multilabel", classes=[c], **smooth)(z, absent) for c in range(4)]
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()
    weighted = torch.nn.functional.cross_entropy(z, y, weight=weights, reduction="none").mean()
    recorded = {
        "dice.lesions": losses.DiceLoss("multilabel", **smooth)(z, m),
        "dice.softmax": losses.DiceLoss("multiclass", classes=[1, 2, 3], **smooth)(z, y),
        "absent.dice.lesions": losses.DiceLoss("multilabel", **smooth)(z, absent),
        "absent.dice.softmax": losses.DiceLoss("multiclass", classes=[1, 2, 3], **smooth)(z, torch.where(y == 3, 0, y)),
        "absent.weighted.dice.lesions": (torch.stack(dice_per_class) * torch.tensor([3.0, 1.0, 1.0, 1.5]) / 1.625).mean(),
        "focal_tversky.lesions": torch.stack([loss(z, m) for loss in per_class]).mean(),
        "absent.focal_tversky.lesions": torch.stack([loss(z, absent) for loss in per_class]).mean(),
        "focal.lesions": losses.FocalLoss("multilabel", alpha=0.25, gamma=2.0)(z, m),
        "focal.softmax": softmax_focal_loss_with_logits(z, y, gamma=2.0),
        "cross_entropy.softmax": torch.nn.functional.cross_entropy(z, y),
        "cross_entropy.lesions": torch.nn.functional.binary_cross_entropy_with_logits(z, m),
        "weighted.cross_entropy.softmax": weighted,
    }
    recorded |= {"logits": z.permute(0, 2, 3, 1), "label": y, "masks": m.permute(0, 2, 3, 1)}
    np.savez_compressed(FIXTURES / "losses.npz", **{name: np.asarray(value) for name, value in recorded.items()})


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
    record_torch_grader(narrow_resnet18(base_filters=4), "resnet18_narrow")
    record_torch_grader(narrow_densenet(base_filters=4), "densenet_narrow")
    record_dilated_resnet()
    record_decoders()
    record_keras()
    record_losses()
