"""A fourth training after the three of the bundled model: windows of images at 1024 px, four lesions only.

Purpose:   high resolution without a GPU: a window of 448 px has a fifth of the pixels of the whole image.
Paper:     no row. There are no grades: graded images would have to be whole.
Launch:    the three trainings of `shipped.py`, then
           python main.py train --config=configs/experiments/windows.py --config.data.root=DIR --config.model.weights=FILE
           python main.py evaluate --workdir=runs/windows; one view: --config.inference.tta=none
Expected:  see docs/results.md.
Hardware:  1 CPU core, 8 GiB.
"""

from dataclasses import replace

from configs.experiments import shipped
from configs.tables.rows import lesions_only
from pldmlt_jax.config import Config


def get_config() -> Config:
    config = shipped.get_config()
    return lesions_only(
        replace(
            config,
            name="windows",
            data=replace(config.data, size_px=1024),
            train=replace(config.train, init_from="runs/shipped", crop_px=448, theta_units=50),
        )
    )
