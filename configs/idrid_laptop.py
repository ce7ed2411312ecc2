"""The recommended setting on real IDRiD images, for two CPU cores and less than an hour, stage 1 included.

Purpose:   honest figures on real images without a GPU: a held-out fifth of the official training images, read once.
Paper:     no row of it: ImageNet VGG16 grader in place of ResNeXt, 320 px in place of 1024, recommended losses and rates.
Launch:    python main.py --config=configs/idrid_laptop.py --config.data.root=DIR_OF_IDRiD
               --config.model.weights=vgg16.safetensors --config.grader.weights='("vgg16.safetensors",)'
Expected:  see README, "Real images".
Hardware:  2 CPU cores.
"""

from pldmlt_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    GraderConfig,
    LossConfig,
    MetaConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="idrid_laptop",
        data=DataConfig(
            size_px=320, split="folds", grading_split="folds", val_share=0.15, augment=AugmentConfig(photometric=0.1)
        ),
        grader=GraderConfig(
            architectures=("vgg16",),
            weights=("encoder",),
            size_px=224,
            batch_size=8,
            epochs=6,
            frozen_stages=3,
            learning_rate=1e-4,
        ),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(
            loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hierarchy="ordinal"
        ),
        optim=OptimConfig(learning_rate=1e-4, decoder_factor=10.0, schedule="cosine"),
        train=TrainConfig(unit="step", theta_units=20, label_units=4, max_rounds=18, eval_every_rounds=3, monitor="dice"),
    )
