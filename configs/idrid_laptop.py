"""The recommended setting on real IDRiD images, for two CPU cores and less than an hour, stage 1 included.

Purpose:   honest figures on real images without a GPU: a held-out fifth of the official training images, read once.
Paper:     no row of it: ImageNet VGG16 grader in place of ResNeXt, 320 px in place of 1024, recommended losses and rates.
Launch:    python main.py --config=configs/idrid_laptop.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16, .pth or .safetensors. The grader starts from it too.
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
            # Masks that lose no lesion cover 1.4 times the area here, and a network that learns them perfectly would
            # have a Dice of 0.83 at the images' own size; masks that keep areas allow 0.91.
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
        model=ModelConfig(norm_momentum=0.9),  # 0.99 is for long runs: here the running statistics would never arrive
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
