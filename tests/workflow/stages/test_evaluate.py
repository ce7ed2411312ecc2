"""Given grades of which some are wrong: what is learnt from, what is kept aside, and what the label network is scored on."""

import dataclasses

import numpy as np
import pytest

from pldmlt_jax.config import NO_SET, Config, DataConfig, LossConfig, MetaConfig, PseudoLabelConfig, SyntheticConfig
from pldmlt_jax.config_checks import validate_config
from pldmlt_jax.data.loader import true_labels
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions
from pldmlt_jax.workflow.stages.evaluate import score_labels
from pldmlt_jax.workflow.stages.train import read_training_labels
from tests.evaluation.tiny_network import tiny_config, tiny_network

SHARE = 0.5


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Context:
    folder = tmp_path_factory.mktemp("given")
    config = tiny_config(blocks=3)
    config.data = DataConfig(
        segmentation="synthetic_s",
        grading="synthetic_d",
        size_px=config.data.size_px,
        cache_dir=str(folder / "cache"),
        synthetic=SyntheticConfig(96, 12, 2, 6, 2, SHARE),
    )
    config.pseudo.source = "given"
    config.meta.hierarchy = "evidence"
    validate_config(config)
    return Context(RunOptions(config, folder, "evaluate"))


def test_wrong_grades_are_learnt_from_and_the_true_ones_are_admitted_by_the_masks(context):
    train = context.segmented["train"].split
    labels, true = read_training_labels(train, context.config, context.workdir / "none"), true_labels(train).grade
    assert (labels.grade != true).sum() == round(SHARE * 12)
    assert labels.admissible[np.arange(12), true].all()
    graded = context.truly_graded["train"].split
    assert (true_labels(graded).grade == [record.true_grade for record in graded.records]).all()
    held_out = context.graded_for_network["test"]  # pixel-labelled photographs, by their true grades
    assert [record.true_grade for record in held_out.split.records] == [record.grade for record in held_out.split.records]


@pytest.mark.parametrize("hierarchy", ["full", "evidence"])
def test_a_label_network_that_has_learnt_nothing_does_what_its_hierarchy_does(context, hierarchy):
    config = dataclasses.replace(context.config, meta=MetaConfig(hierarchy=hierarchy, kappa=50.0))
    network = tiny_network(config)
    own = Context(dataclasses.replace(context.options, config=config))
    own.segmented = context.segmented
    metrics = score_labels(own, network)
    assert metrics["labels/n"] == len(context.segmented["train"])
    assert 0 < metrics["labels/n_wrong"] <= round(SHARE * 12)
    assert metrics["labels/accuracy_before"] == 1 - metrics["labels/n_wrong"] / metrics["labels/n"]
    assert metrics["labels/spoilt"] == metrics["labels/spoilt_by_hierarchy"] == 0.0
    assert metrics["labels/true_weight_of_right"] > 0.99
    assert (metrics["labels/repaired_by_hierarchy"] > 0) == (hierarchy == "evidence")
    if hierarchy == "full":
        assert metrics["labels/repaired"] == 0.0


@pytest.mark.parametrize(
    ("loss", "meta"), [(LossConfig(), MetaConfig(loss="trusted")), (LossConfig(graded_weight=1.0), MetaConfig())]
)
def test_truly_graded_photographs_beside_given_grades_need_a_set(loss, meta):
    config = Config(loss=loss, meta=meta, pseudo=PseudoLabelConfig(source="given"), data=DataConfig(grading="synthetic_d"))
    validate_config(config)
    with pytest.raises(ConfigError, match="a graded set"):
        validate_config(dataclasses.replace(config, data=DataConfig(grading=NO_SET)))
