"""`idrid_laptop.py` with the paper's losses, rates and meta step, for comparison. All else is the same.

Purpose:   what the literal setting achieves in the same time, on the same images, folds and pseudo-labels.
Paper:     no row, for the same reasons as `idrid_laptop.py`.
Launch:    cp -r runs/idrid_laptop runs/idrid_laptop_literal   (keeps stage 1; without it stage 1 runs again)
           python main.py --config=configs/idrid_laptop_literal.py, with the same --config.data.root and weights
Expected:  see README, "Real images".
Hardware:  2 CPU cores, 6 GiB.
"""

from dataclasses import replace

from configs import idrid_laptop
from pldmlt_jax.config import Config, LossConfig, MetaConfig, OptimConfig


def get_config() -> Config:
    recommended = idrid_laptop.get_config()
    return replace(
        recommended,
        name="idrid_laptop_literal",
        loss=LossConfig(),
        meta=MetaConfig(label_init="random", softmax="literal"),
        optim=OptimConfig(),
        train=replace(recommended.train, monitor="loss"),
    )
