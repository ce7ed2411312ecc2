"""The bundled model, `pldmlt_jax/pretrained`: compact, four lesions and the grade, trained without a GPU.

Purpose:   `predict` without any training. The 8-bit weights take at most 16 MB.
Paper:     no row, see `shipped_start.py`.
Launch:    the commands of shipped_start.py and shipped_middle.py, then
           python main.py train --config=configs/experiments/shipped.py --config.data.root=DIR --config.model.weights=FILE
           which holds out a fold for evaluation. The bundled model is from a second run of this last training on all
           official training images, with --config.data.split=official --config.data.grading_split=official and
           --workdir=runs/shipped_all, and then
           python main.py export --checkpoint=runs/shipped_all --format=int8 --output=OUT
           with the thresholds of runs/shipped; see its model card.
Expected:  see docs/results.md.
Hardware:  1 CPU core.
"""

from dataclasses import replace

from configs.experiments import shipped_middle
from pldmlt_jax.config import Config, InferenceConfig


def get_config() -> Config:
    middle = shipped_middle.get_config()
    return replace(
        middle,
        name="shipped",
        data=replace(
            middle.data,
            size_px=640,  # the graded images, 512 px high here, have fields of view about this wide
            augment=replace(middle.data.augment, photometric=0.2),  # for the brightness and colour of other cameras
        ),
        train=replace(middle.train, init_from="runs/shipped_middle"),
        inference=InferenceConfig(tta="flips"),
    )
