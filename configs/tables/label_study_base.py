"""base (scratch)"""
from pldmlt_jax.config import *

def get_config() -> Config:
    return Config(
        name="label_study",
        data=DataConfig(
            segmentation="synthetic_s",
            grading="synthetic_d",
            size_px=64,
            num_threads=2,
            augment=AugmentConfig(photometric=0.1, min_scale=1.0),
            synthetic=SyntheticConfig(
                height_px=128,
                num_segmentation_train=160,
                num_segmentation_test=150,
                num_grading_train=100,
                num_grading_test=5,
                corrupt_share=0.4,
            ),
        ),
        pseudo=PseudoLabelConfig(source="given"),
        model=ModelConfig(
            encoder_filters=(16, 32, 48, 64, 64),
            encoder_convs=(1, 1, 1, 1, 1),
            decoder_filters=(32, 24, 16, 16, 8),
            centre_filters=0,
            encoder_norm=True,
            full_res_skip=True,
            norm_momentum=0.9,
        ),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(
            loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hierarchy="ordinal"
        ),
        optim=OptimConfig(learning_rate=2e-3, schedule="cosine"),
        train=TrainConfig(
            batch_size=16,
            unit="step",
            theta_units=10,
            label_units=5,
            max_rounds=30,
            eval_every_rounds=30,
            log_every_steps=5,
            monitor="dice",
        ),
        evaluation=EvaluationConfig(batch_size=32, original_size=False, num_examples=0),
    )
