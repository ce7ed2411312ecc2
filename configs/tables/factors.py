"""What changes the lesion metrics: one factor at a time, from one start, on real IDRiD images at 256 px.

Purpose:   which choices of `shipped_start.py` help, early in training: every row differs from `base` in one of them;
           `crops`, the batches and `longer_constant` differ in two.
Paper:     no row. Four lesions only, without grades, except in the row `joint`.
Launch:    python main.py compare --config=configs/tables/factors.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16. To measure the noise: --rows=base with
           --folds=0,1,2,3,4, or with --seeds=0,1,2, each with its own --workdir.
Expected:  see docs/results.md.
Hardware:  1 CPU core, 3 GiB: four hours.
"""

from dataclasses import replace

from configs.experiments import shipped_start
from configs.tables import rows
from configs.tables.rows import IMAGENET, lesions_only
from pldmlt_jax.config import AugmentConfig, Config, ModelConfig
from pldmlt_jax.table_config import Row, Table

STEPS, ROUNDS = 200, 4


def base() -> Config:
    """Returns the base config: whole images, one per step, each seen about six times."""
    config = shipped_start.get_config()
    return lesions_only(
        replace(
            config,
            data=replace(config.data, size_px=256),
            model=replace(config.model, weights=IMAGENET["vgg16"], weight_gradients="xla"),
            loss=replace(config.loss, absent_overlap=False),
            train=replace(config.train, theta_units=STEPS // ROUNDS, max_rounds=ROUNDS),
        )
    )


def varied(**parts: dict) -> Config:
    """Returns `base` with other values in the given fields of the given sections."""
    return rows.varied(base(), **parts)


def batch(size: int, **model: object) -> Config:
    """Returns `base` with larger batches and fewer steps: the same number of images, up to rounding."""
    return varied(train={"batch_size": size, "theta_units": STEPS // ROUNDS // size}, model=model)


def joint() -> Config:
    """Returns `base` with one truly graded image per image with masks, as in `shipped_start.py`."""
    shipped = shipped_start.get_config()
    return varied(
        data={"grading": shipped.data.grading},
        pseudo={"source": shipped.pseudo.source},
        loss={"grading": True, "graded_weight": shipped.loss.graded_weight},
    )


def get_table() -> Table:
    full, batch_norm = ModelConfig(), {"decoder_norm": "batch", "norm_momentum": 0.9}
    no_augmentation = AugmentConfig(flip=False, rotation_deg=0.0, min_scale=1.0)
    strong = AugmentConfig(photometric=0.3, min_scale=0.6, blur_px=1.0, elastic=0.02)
    crops = varied(data={"size_px": 512}, train={"crop_px": 256}, inference={"mode": "tiles", "tile_px": 256})
    configs = {
        "base": (base(), "256 px, whole images"),
        "size_192": (varied(data={"size_px": 192}), "192 px"),
        "size_384": (varied(data={"size_px": 384}), "384 px"),
        "crops": (crops, "256 px windows of 512 px, predicted in tiles"),
        "augment_none": (varied(data={"augment": no_augmentation}), "no augmentation"),
        "augment_strong": (varied(data={"augment": strong}), "jitter 0.3, scale from 0.6, blur, elastic"),
        "clahe": (varied(data={"enhance": "clahe"}), "CLAHE"),
        "ben_graham": (varied(data={"enhance": "ben_graham"}), "Ben Graham"),
        "focal": (varied(loss={"segmentation": "focal"}), "focal loss, mean over pixels"),
        "focal_literal": (varied(loss={"segmentation": "focal", "reduction": "keras"}), "focal loss, mean over all"),
        "focal_tversky": (varied(loss={"segmentation": "focal_tversky"}), "focal Tversky loss"),
        "absent": (varied(loss={"absent_overlap": True}), "Dice of absent lesions included"),
        "constant": (varied(optim={"schedule": "constant"}), "constant rate"),
        "decoder_1": (varied(optim={"decoder_factor": 1.0}), "decoder's rate 1e-4, like the encoder's"),
        "encoder_10": (
            varied(optim={"learning_rate": 1e-3, "decoder_factor": 1.0}),
            "encoder's rate 1e-3, like the decoder's",
        ),
        "batch_2": (batch(2), "batch 2, 100 steps"),
        "batch_4": (batch(4), "batch 4, 48 steps"),
        "batch_norm_1": (batch(1, **batch_norm), "batch normalisation"),
        "batch_norm_2": (batch(2, **batch_norm), "batch normalisation, batch 2, 100 steps"),
        "batch_norm_4": (batch(4, **batch_norm), "batch normalisation, batch 4, 48 steps"),
        "no_ema": (varied(optim={"ema_decay": 0.0}), "no moving average of the weights"),
        "flips": (varied(inference={"tta": "flips"}), "mean of four flips"),
        "joint": (joint(), "also trained on the grades of truly graded images"),
        "longer": (varied(train={"max_rounds": 2 * ROUNDS}), "400 steps"),
        "longer_constant": (
            varied(train={"max_rounds": 2 * ROUNDS}, optim={"schedule": "constant"}),
            "400 steps, constant rate",
        ),
        "unfrozen": (varied(model={"frozen_stages": 0}), "whole encoder trained"),
        "wide": (
            varied(model={"decoder_filters": full.decoder_filters, "centre_filters": full.centre_filters}),
            "full-width decoder",
        ),
    }
    return Table(
        name="factors",
        title="One factor at a time, four lesions of IDRiD",
        rows=tuple(Row(name, config, what) for name, (config, what) in configs.items()),
        reference="base",
    )
