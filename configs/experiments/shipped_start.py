"""The first of three trainings of the bundled model: 384 px, from ImageNet. `shipped_middle.py` starts from it.

Purpose:   small images first, because they are cheap, then larger ones: two hours of one CPU core in all.
Paper:     no row. Grades are trained on truly graded images only, together with the lesions. There is no stage 1, no
           pseudo-label and no label update: together they would take longer than the training itself.
Launch:    python main.py train --config=configs/experiments/shipped_start.py --config.data.root=DIR \
               --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16, .pth or .safetensors.
Expected:  see docs/results.md.
Hardware:  1 CPU core.
"""

from pldmlt_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LossConfig,
    MetaConfig,
    ModelConfig,
    OptimConfig,
    PseudoLabelConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="shipped_start",
        data=DataConfig(
            size_px=384,
            mask_reduction="area",
            split="folds",
            grading_split="folds",
            val_share=0.15,
            augment=AugmentConfig(photometric=0.1, min_scale=0.9),
        ),
        model=ModelConfig(
            frozen_stages=3,
            decoder_filters=(64, 48, 32, 32, 16),
            centre_filters=0,
            decoder_norm="group",  # batches have one image
            weight_gradients="bfloat16",
        ),
        pseudo=PseudoLabelConfig(source="none"),
        loss=LossConfig(target="lesions", segmentation="dice_ce", reduction="pixel_mean", graded_weight=2.0),
        meta=MetaConfig(enabled=False, hidden=()),
        optim=OptimConfig(learning_rate=1e-4, decoder_factor=10.0, schedule="cosine", warmup_steps=10, ema_decay=0.98),
        train=TrainConfig(
            batch_size=1,
            unit="step",
            theta_units=44,
            max_rounds=6,
            log_every_steps=22,
            monitor="dice",
        ),
        evaluation=EvaluationConfig(batch_size=2),
    )
