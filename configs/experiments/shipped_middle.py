"""The second of three trainings of the net that ships: 448 px, from `shipped_start.py`'s; `shipped.py` goes on from it.

Purpose:   more pixels for the smallest lesions, which weigh more here.
Paper:     no row of it, see `shipped_start.py`.
Launch:    shipped_start.py's command, then
           python main.py train --config=configs/experiments/shipped_middle.py --config.data.root=DIR \
               --config.model.weights=FILE
Expected:  see docs/results.md. What ships is from a training with `--config.loss.absent_overlap=True`, of before that was
           compared.
Hardware:  1 CPU core.
"""

from dataclasses import replace

from configs.experiments import shipped_start
from pldmlt_jax.config import Config


def get_config() -> Config:
    start = shipped_start.get_config()
    return replace(
        start,
        name="shipped_middle",
        data=replace(start.data, size_px=448),
        loss=replace(
            start.loss,
            class_weights=(3.0, 1.0, 1.0, 1.5),  # microaneurysms are the last to be learnt
            absent_overlap=False,  # batches of one image, half of which have no soft exudates, otherwise teach to mark none
        ),
        train=replace(start.train, init_from="runs/shipped_start", theta_units=40, max_rounds=8, log_every_steps=20),
    )
