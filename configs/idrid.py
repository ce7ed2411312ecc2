"""The paper's own setting on IDRiD: literal wherever the paper gives a value, even where that value is risky.

Purpose:   Algorithm 1 as printed, on the pixel-labelled part of IDRiD (official split), at 1024x1024.
Paper:     Table 1, row "Ours", on one of its two sets (the other is DiaRetDB1).
Launch:    python main.py --config=configs/idrid.py --config.data.root=DIR_OF_IDRiD
Expected:  not yet reproduced. The literal loss and rates learn slowly; see README, "How it differs from the paper".
Hardware:  one GPU with 24 GB; ImageNet weights with --config.model.weights=vgg16.safetensors.
"""

from pldmlt_jax.config import Config, DataConfig, MetaConfig


def get_config() -> Config:
    """Returns the literal config. Most defaults of `Config` are already the paper's values; these three are safer ones."""
    return Config(
        name="idrid",
        data=DataConfig(resize="stretch"),
        meta=MetaConfig(label_init="random", softmax="literal"),
    )
