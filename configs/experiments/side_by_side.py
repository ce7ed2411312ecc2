"""VGG16-U-Net on the four lesions of IDRiD, to compare with segmentation_models.pytorch's.

Purpose:   the same start, batches, loss, rates and steps in both libraries, on real images: see docs/results.md.
Paper:     Table 1's baseline U-Net on four independent lesions, with the recommended loss; no grades, no label update.
Launch:    python main.py train --config=configs/experiments/side_by_side.py --config.data.root=DIR \
               --config.model.weights=FILE
           python main.py evaluate --workdir=runs/side_by_side
           python -m benchmarks.side_by_side --run=runs/side_by_side --output=runs/side_by_side_torch
           python main.py evaluate --checkpoint=runs/side_by_side_torch --workdir=runs/side_by_side_torch
           DIR holds IDRiD/; FILE is torchvision's VGG16. The third command needs requirements-bench.txt.
Expected:  see docs/results.md.
Hardware:  2 CPU cores.
"""

from configs.experiments import shipped_start
from configs.tables.rows import lesions_only
from pldmlt_jax.config import Config, LossConfig, ModelConfig, OptimConfig, TrainConfig

ROUNDS = 10


def get_config() -> Config:
    config = Config(
        name="side_by_side",
        data=shipped_start.get_config().data,
        model=ModelConfig(norm_momentum=0.9, norm_epsilon=1e-5),  # smp's
        loss=LossConfig(target="lesions", segmentation="dice_ce", reduction="pixel_mean"),
        optim=OptimConfig(learning_rate=1e-4, decoder_factor=10.0, schedule="cosine"),
        # Both keep the last weights: the validation images are evaluated once, at the end.
        train=TrainConfig(
            batch_size=2, unit="step", theta_units=20, max_rounds=ROUNDS, eval_every_rounds=ROUNDS,
            patience_rounds=ROUNDS, log_every_steps=10, monitor="dice",
        ),
    )  # fmt: skip
    return lesions_only(config)
