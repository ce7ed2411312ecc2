"""Does the label network help? Meta losses x psi x share of wrong grades, and no update, on synthetic images.

Purpose:   the true grades are known, so the effect of the update on right and wrong labels can be counted.
Paper:     its central claim (sections 3.2 and 4.4): the update balances the tasks' gradients and helps both tasks.
Launch:    python main.py compare --config=configs/tables/label_study.py
Expected:  see docs/label_update.md.
Hardware:  2 CPU cores; a run takes seconds; the first of each shape takes a minute, because it compiles.
"""

from dataclasses import replace

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
    SyntheticConfig,
    TrainConfig,
)
from pldmlt_jax.table_config import Row, Table

LOSSES = ("paper", "indirect", "anchored", "maxl", "trusted")


def study_config(share: float, meta: MetaConfig) -> Config:
    """Returns the recommended setting on small synthetic images, of whose given grades `share` are wrong.

    There is no stage 1: the grade of every image is given. The label network takes one step for every two of theta, at
    three times its recommended rate, so that the effect of its gradient shows in so short a run.
    """
    synthetic = SyntheticConfig(
        height_px=96,
        num_segmentation_train=300,
        num_segmentation_test=150,
        num_grading_train=100,
        num_grading_test=5,
        corrupt_share=share,
    )
    return Config(
        data=DataConfig(
            segmentation="synthetic_s",
            grading="synthetic_d",
            size_px=64,
            num_threads=1,
            augment=AugmentConfig(photometric=0.1, min_scale=1.0),
            synthetic=synthetic,
        ),
        pseudo=PseudoLabelConfig(source="given"),
        model=ModelConfig(
            encoder="resnet18",
            decoder="fpn",
            encoder_base_filters=8,
            encoder_max_blocks=1,
            decoder_base_filters=16,
            norm_momentum=0.9,
            norm_epsilon=1e-5,
        ),
        loss=LossConfig(segmentation="dice_ce", reduction="pixel_mean"),
        meta=meta,
        optim=OptimConfig(learning_rate=5e-3, schedule="cosine"),
        train=TrainConfig(
            batch_size=16,
            unit="step",
            theta_units=10,
            label_units=5,
            max_rounds=32,
            patience_rounds=32,
            eval_every_rounds=32,
            monitor="dice",
        ),
        evaluation=EvaluationConfig(batch_size=32, original_size=False, num_examples=0),
    )


def recommended(loss: str, hierarchy: str) -> MetaConfig:
    return MetaConfig(loss=loss, hierarchy=hierarchy, inner_learning_rate=1e-2, optimizer="adam", learning_rate=3e-3)


def no_update(share: float) -> Row:
    config = study_config(share, MetaConfig(enabled=False))
    return Row(f"none_{100 * share:.0f}", config, f"no update, {share:.0%} wrong")


def update(loss: str, hierarchy: str, share: float) -> Row:
    config = study_config(share, recommended(loss, hierarchy))
    return Row(f"{loss}_{hierarchy}_{100 * share:.0f}", config, f"J {loss}, psi {hierarchy}, {share:.0%} wrong")


def gentle(share: float) -> Row:
    """Returns the paper's J at the recommended rate, with one step of the label network for ten of theta."""
    config = study_config(share, replace(recommended("paper", "full"), learning_rate=1e-3))
    what = f"J paper, psi full, {share:.0%} wrong, gentler"
    return Row(f"paper_gentle_{100 * share:.0f}", replace(config, train=replace(config.train, label_units=1)), what)


def literal(share: float) -> Row:
    """Returns the paper's label network: its J, rates and optimiser, a random start and Eq. 4 as printed."""
    meta = MetaConfig(label_init="random", softmax="literal")
    return Row(f"literal_{100 * share:.0f}", study_config(share, meta), f"literal label network, {share:.0%} wrong")


def get_table() -> Table:
    """Returns a part of the factorial: every J under `full` with every share, and the narrower psi where 40 % are wrong."""
    rows = [no_update(0.4), *(update(loss, "full", 0.4) for loss in LOSSES), literal(0.4), gentle(0.4)]
    rows += [no_update(0.0), *(update(loss, "full", 0.0) for loss in LOSSES)]
    rows += [update(loss, hierarchy, 0.4) for hierarchy in ("evidence", "ordinal") for loss in LOSSES]
    rows += [no_update(0.2), *(update(loss, "full", 0.2) for loss in LOSSES)]
    title = "Does the label network help? Synthetic images, a share of whose given grades is wrong"
    return Table("label_study", title, tuple(rows), seeds=(0, 1, 2), reference="none_40")
