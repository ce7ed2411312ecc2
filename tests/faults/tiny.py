"""The whole method in seconds, for faults: every stage runs, and nothing is learnt.

Purpose:   the config of the tests and scripts of this folder.
Launch:    python main.py --config=tests/faults/tiny.py --workdir=DIR --config.data.cache_dir=DIR
"""

from pldmlt_jax.config import (
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
        name="tiny",
        data=DataConfig(
            segmentation="synthetic_s",
            grading="synthetic_d",
            size_px=32,
            num_threads=2,
            synthetic=SyntheticConfig(
                height_px=72,
                num_segmentation_train=10,
                num_segmentation_test=3,
                num_grading_train=16,
                num_grading_test=5,
            ),
        ),
        model=ModelConfig(
            encoder_filters=(4, 8),
            encoder_convs=(1, 1),
            encoder_norm=True,
            decoder_filters=(8, 4),
            centre_filters=0,
            norm_momentum=0.9,
        ),
        grader=GraderConfig(architectures=("vgg16",), weights=("",), base_filters=16, size_px=32, batch_size=4, epochs=2),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hidden=(8,)),
        optim=OptimConfig(learning_rate=1e-3, ema_decay=0.9),
        train=TrainConfig(
            batch_size=2,
            unit="step",
            theta_units=3,
            label_units=2,
            max_rounds=4,
            log_every_steps=1,
            monitor="dice",
        ),
        evaluation=EvaluationConfig(batch_size=2, num_examples=2),
    )
