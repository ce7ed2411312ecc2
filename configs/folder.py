"""Your own images, masks and grades, with the recommended settings.

Purpose:   a network trained on your own data, small enough to try on two CPU cores.
Paper:     no row: recommended losses and rates.
Launch:    python main.py check --config=configs/folder.py --config.data.folder_root=FOLDER
           python main.py --config=configs/folder.py --config.data.folder_root=FOLDER --config.model.weights=FILE
           python main.py predict --checkpoint=runs/folder --input=PHOTOGRAPHS
           FOLDER holds images/, masks/, grades.csv (README, "Train on your own images"). FILE is torchvision's VGG16, .pth
           or .safetensors. `check` reports what is wrong in the folder, and which of these settings fit it.
Expected:  a fifth of the images is held out and scored. If there is a folder images/test, use
           --config.data.split=official --config.data.grading_split=official.
Hardware:  2 CPU cores, 6 GiB; 10 minutes for 30 images with masks and 80 with grades. With a GPU:
           --config.data.size_px=1024 --config.train.max_rounds=100, or what `check` recommends.
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
        name="folder",
        data=DataConfig(
            segmentation="folder_s",
            grading="folder_d",
            size_px=256,
            mask_reduction="area",
            split="folds",
            grading_split="folds",
            augment=AugmentConfig(photometric=0.1),
        ),
        grader=GraderConfig(
            architectures=("vgg16",), weights=("encoder",), size_px=224, batch_size=8, epochs=6, frozen_stages=3
        ),
        model=ModelConfig(norm_momentum=0.9),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=MetaConfig(
            loss="anchored", inner_learning_rate=1e-2, optimizer="adam", learning_rate=1e-3, hierarchy="ordinal"
        ),
        optim=OptimConfig(learning_rate=1e-4, decoder_factor=10.0, schedule="cosine"),
        train=TrainConfig(
            unit="step",
            theta_units=20,
            label_units=2,
            max_rounds=5,
            eval_every_rounds=1,
            log_every_steps=20,
            monitor="dice",
        ),
    )
