"""The second of three trainings of the bundled model: 448 px. Starts from `shipped_start.py`; `shipped.py` follows.

Purpose:   more pixels for the smallest lesions, which also have a larger weight here.
Paper:     no row, see `shipped_start.py`.
Launch:    shipped_start.py's command, then
           python main.py train --config=configs/experiments/shipped_middle.py --config.data.root=DIR \
               --config.model.weights=FILE
Expected:  see docs/results.md. The bundled model was trained with `--config.loss.absent_overlap=True`, before the two were
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
            class_weights=(3.0, 1.0, 1.0, 1.5),  # microaneurysms are the last to be detected
            absent_overlap=False,  # else single-image batches, half without soft exudates, teach to mark none
        ),
        train=replace(start.train, init_from="runs/shipped_start", theta_units=40, max_rounds=8, log_every_steps=20),
    )
