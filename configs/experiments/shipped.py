"""The net that ships in `pldmlt_jax/pretrained`: compact, four lesions and the grade, without a GPU.

Purpose:   `predict` without any training. Its weights of 8 bits are at most 16 MB.
Paper:     no row of it, see `shipped_start.py`.
Launch:    the commands of shipped_start.py and shipped_middle.py, then
           python main.py train --config=configs/experiments/shipped.py --config.data.root=DIR --config.model.weights=FILE
           which holds a fold out, to be measured on. What ships came of this last training once more, on all official
           training photographs, with --config.data.split=official --config.data.grading_split=official and
           --workdir=runs/shipped_all, and then
           python main.py export --checkpoint=runs/shipped_all --format=int8 --output=OUT
           with the thresholds of runs/shipped, see its model card.
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
            size_px=640,  # the graded photographs, which are 512 px high here, have fields of view about as wide
            augment=replace(middle.data.augment, photometric=0.2),  # for the light and colour of other cameras
        ),
        train=replace(middle.train, init_from="runs/shipped_middle"),
        inference=InferenceConfig(tta="flips"),
    )
