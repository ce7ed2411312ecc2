"""The best setting we know for IDRiD on a GPU: whole images at 1024 px, four lesions and the true grades of IDRiD-D.

Purpose:   the best metrics on the folds of the official training images: `shipped_start.py` at full cost.
Paper:     no row: L_S is Dice and cross-entropy of four sigmoids, and grades are trained on truly graded images.
           Pseudo-labels add nothing to these, so there is no stage 1 and no label update.
Launch:    for fold in 0 1 2 3 4; do python main.py --config=configs/idrid_best.py --config.data.fold=$fold
           --workdir=runs/idrid_best_$fold --config.data.root=DIR --config.model.weights=FILE; done
Expected:  not yet run: no GPU was available.
Hardware:  an estimate: one GPU with 40 GB; less with --config.model.dtype=bfloat16 or --config.train.batch_size=2.
"""

from pldmlt_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    InferenceConfig,
    LossConfig,
    MetaConfig,
    ModelConfig,
    OptimConfig,
    PseudoLabelConfig,
    TrainConfig,
)


def get_config() -> Config:
    return Config(
        name="idrid_best",
        data=DataConfig(
            mask_reduction="area",
            split="folds",
            grading_split="folds",
            val_share=0.15,
            augment=AugmentConfig(photometric=0.1),
        ),
        model=ModelConfig(decoder_norm="group"),
        pseudo=PseudoLabelConfig(source="none"),
        loss=LossConfig(
            target="lesions",
            segmentation="dice_ce",
            absent_overlap=False,
            reduction="pixel_mean",
            graded_weight=2.0,
        ),
        meta=MetaConfig(enabled=False),
        optim=OptimConfig(learning_rate=1e-4, decoder_factor=10.0, schedule="cosine", warmup_steps=100, ema_decay=0.998),
        train=TrainConfig(batch_size=4, theta_units=5, max_rounds=60, monitor="dice", patience_rounds=60),
        inference=InferenceConfig(tta="flips"),
    )
