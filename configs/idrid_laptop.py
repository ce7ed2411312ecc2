"""The recommended setting on real IDRiD images: two CPU cores, less than an hour, stage 1 included.

Purpose:   metrics on real images without a GPU: a fifth of the official training images is held out and evaluated once.
Paper:     no row: ImageNet VGG16 grader instead of ResNeXt, 320 px instead of 1024, recommended losses and rates.
Launch:    python main.py --config=configs/idrid_laptop.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16, .pth or .safetensors. The grader also starts from it.
Expected:  see README, "Real images".
Hardware:  2 CPU cores, 6 GiB.
"""

from pldmlt_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    GraderConfig,
    LossConfig,
    MetaConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="idrid_laptop",
        data=DataConfig(
            size_px=320,
            # Masks that lose no lesion cover 1.4 times the area at this size. A network that predicts them perfectly
            # would have a Dice of 0.83 at the images' own size; with masks that keep areas it is 0.91.
            mask_reduction="area",
            split="folds",
            grading_split="folds",
            val_share=0.15,
            augment=AugmentConfig(photometric=0.1),
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
        model=ModelConfig(norm_momentum=0.9),  # at 0.99 the running statistics need a longer run
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(
            loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hierarchy="ordinal"
        ),
        optim=OptimConfig(learning_rate=1e-4, decoder_factor=10.0, schedule="cosine"),
        train=TrainConfig(
            unit="step",
            theta_units=20,
            label_units=2,
            max_rounds=12,
            eval_every_rounds=2,
            log_every_steps=20,
            monitor="dice",
        ),
    )
