"""The whole method on the built-in synthetic set, small enough for two CPU cores.

Purpose:   to see every stage work, from synthetic images to lesion masks, grades and a report.
Paper:     no row: the images are synthetic.
Launch:    make demo, or: python main.py
Expected:  see README, "Two commands".
Hardware:  2 CPU cores, less than 6 minutes, less than 6 GiB.
"""

from pldmlt_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    GraderConfig,
    LossConfig,
    MetaConfig,
    ModelConfig,
    OptimConfig,
    SyntheticConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="demo",
        data=DataConfig(
            segmentation="synthetic_s",
            grading="synthetic_d",
            size_px=128,
            augment=AugmentConfig(photometric=0.1),
            synthetic=SyntheticConfig(
                height_px=320,
                num_segmentation_train=200,
                num_segmentation_test=40,
                num_grading_train=320,
                num_grading_test=220,
            ),
        ),
        model=ModelConfig(
            encoder_filters=(16, 32, 64, 96, 128),
            encoder_convs=(1, 1, 2, 2, 2),
            decoder_filters=(96, 64, 32, 24, 16),
            centre_filters=0,
            encoder_norm=True,
            full_res_skip=True,
            norm_momentum=0.9,
        ),
        grader=GraderConfig(base_filters=16, max_blocks=1, size_px=128, batch_size=16, epochs=6, learning_rate=2e-3),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(
            loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hierarchy="ordinal"
        ),
        optim=OptimConfig(learning_rate=1.5e-3, schedule="cosine"),
        train=TrainConfig(
            batch_size=2,
            unit="step",
            theta_units=40,
            label_units=2,
            max_rounds=28,
            eval_every_rounds=7,
            log_every_steps=20,
            monitor="dice",
        ),
        evaluation=EvaluationConfig(batch_size=8),
    )
