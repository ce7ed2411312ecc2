"""The net that ships in `pldmlt_jax/pretrained`: compact, four lesions and the grade, without a GPU.

Purpose:   `predict` without any training. Its weights of 8 bits are at most 16 MB.
Paper:     no row of it, see `shipped_start.py`.
Launch:    shipped_start.py's command, then
           python main.py train --config=configs/shipped.py --config.data.root=DIR --config.model.weights=FILE
           and python main.py export --checkpoint=runs/shipped --format=int8 --output=DIR
Expected:  see docs/results.md.
Hardware:  1 CPU core.
"""

from dataclasses import replace

from configs import shipped_start
from pldmlt_jax.config import Config


def get_config() -> Config:
    start = shipped_start.get_config()
    return replace(
        start,
        name="shipped",
        data=replace(start.data, size_px=448),
        loss=replace(start.loss, class_weights=(3.0, 1.0, 1.0, 1.5)),  # microaneurysms are the last to be learnt
        train=replace(start.train, init_from="runs/shipped_start", theta_units=40, max_rounds=8, log_every_steps=20),
    )
