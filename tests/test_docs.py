"""The pages under docs/: the code of extending.md is run as it stands there, links lead somewhere."""

import importlib
import re
import sys
from pathlib import Path
from unittest.mock import patch

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pldmlt_jax as pj
from pldmlt_jax.config import Config, LossConfig, MetaConfig, ModelConfig
from pldmlt_jax.config_checks import config_errors
from pldmlt_jax.data.datasets.registry import DATASETS
from pldmlt_jax.data.synthetic.dataset import draw_fundus
from pldmlt_jax.evaluation.inference import saved_config
from pldmlt_jax.method import losses
from pldmlt_jax.method.steps import meta_step
from pldmlt_jax.method.virtual_step import META_LOSSES, MetaInputs, apply_network
from pldmlt_jax.models.build import DECODERS, ENCODERS, build_network
from pldmlt_jax.types import MASK_BITS, NUM_GRADES
from tests.method.methods import tiny_batch, tiny_method, tiny_state

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
TABLES = (DATASETS, ENCODERS, DECODERS, losses.SEGMENTATION_LOSSES, META_LOSSES)


def code_blocks(page: Path) -> dict[str, str]:
    """The page's Python, by the file that each block names in its first line."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return {re.match(r"# (\w+)\.py\n", block)[1]: block for block in blocks}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The page's modules beside a data set of drawn photographs; the tables are as before afterwards."""
    folder = tmp_path_factory.mktemp("extending")
    blocks = code_blocks(ROOT / "docs" / "extending.md")
    for name, block in blocks.items():
        (folder / f"{name}.py").write_text(block)
    for kind in ("photos", "lesions"):
        (folder / "EYES" / kind).mkdir(parents=True)
    for i in range(10):
        drawn = draw_fundus((5, i), 2 + i % 3, 96)
        mask = np.logical_or.reduce(list(drawn.masks.values()))
        cv2.imwrite(str(folder / "EYES" / "photos" / f"{i}.jpg"), drawn.image[..., ::-1])
        cv2.imwrite(str(folder / "EYES" / "lesions" / f"{i}.png"), mask.astype(np.uint8) * 255)
    patches = [patch.dict(table) for table in TABLES]
    for each in patches:
        each.start()
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for each in patches:
        each.stop()
    for name in blocks:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def config(extended) -> Config:
    """The page's own, small."""
    config = importlib.import_module("eyes_config").get_config()
    config.data.root, config.data.cache_dir = str(extended), str(extended / "cache")
    config.data.size_px = 64
    config.model.encoder_base_filters, config.model.decoder_base_filters = 4, 16
    return config


def test_names_are_known_once_they_stand_in_the_tables(config):
    assert not config_errors(config)
    config_of_unknown = Config(model=ModelConfig(encoder="stagse"))
    (error,) = config_errors(config_of_unknown)
    assert "stages" in error.expected


def test_data_set_network_and_loss_train_and_predict(config, extended):
    """Lesions alone: with no graded set beside it, there is no stage 1."""
    config.data.grading, config.loss.grading, config.meta.enabled = "none", False, False
    config.train.unit, config.train.theta_units, config.train.max_rounds = "step", 2, 1
    run = pj.run_config(config, "train", workdir=extended / "run")
    assert saved_config(run / "checkpoints").loss.segmentation == "brier"
    answer = pj.load(run).predict(extended / "EYES" / "photos" / "0.jpg")
    assert answer.probabilities["lesion"].shape == (96, 144) and answer.grade is None


def test_missing_mask_is_told(config, extended, capsys):
    moved = (extended / "EYES" / "lesions" / "3.png").rename(extended / "3.png")
    try:
        with pytest.raises(pj.UserError, match="1 errors"):
            pj.run_config(config, "check", workdir=extended / "check")
    finally:
        moved.rename(extended / "EYES" / "lesions" / "3.png")
    assert "3.jpg: no mask" in capsys.readouterr().out
    config.evaluation.num_examples = 1  # the config is still its maker's, to be changed
    with pytest.raises(pj.UserError, match="did you mean check"):
        pj.run_config(config, "chekc")


@pytest.mark.parametrize("pair", [("stages", "unet"), ("stages", "linknet"), ("stages", "fpn"), ("vgg16", "hypercolumn"),
                                  ("resnet18", "hypercolumn"), ("densenet121", "hypercolumn")])  # fmt: skip
def test_encoder_and_decoder_fit_the_others(pair, config):
    network = build_network(ModelConfig(encoder=pair[0], decoder=pair[1]), "lesions")
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    output = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), image, False))[0]
    assert output.segmentation_logits.shape == (1, 64, 64, 4) and output.grade_logits.shape == (1, 5)


@pytest.mark.parametrize("target", sorted(losses.TARGETS))
def test_loss_is_what_it_says_and_counts_valid_pixels_alone(target, config):
    batch = tiny_batch()
    truth = losses.segmentation_target(batch.mask_bits, target)
    of = LossConfig(segmentation="brier", target=target, reduction="pixel_mean")
    assert float(losses.segmentation_loss(50.0 * (2.0 * truth - 1.0), batch, of)) == pytest.approx(0.0, abs=1e-6)
    logits = jax.random.normal(jax.random.key(0), truth.shape)
    p, valid = losses.segmentation_probabilities(logits, target), batch.mask_bits & MASK_BITS["valid"] != 0
    expected = np.square(np.asarray(p - truth)).sum(axis=-1)[np.asarray(valid)].mean()
    assert float(losses.segmentation_loss(logits, batch, of)) == pytest.approx(expected, rel=1e-5)


def test_meta_loss_is_what_it_says_and_trains_the_label_network(config):
    meta = MetaConfig(loss="both_tasks", inner_learning_rate=0.1, hidden=(16,), learning_rate=0.1)
    small = {"encoder_filters": (4, 4), "encoder_convs": (1, 1), "decoder_filters": (4, 4)}
    method, batch = tiny_method(meta=meta, model=small, dtype="float32"), tiny_batch()
    state = tiny_state(method)
    output, _ = jax.jit(apply_network, static_argnums=3)(state.network.params, state.network.batch_stats, batch, method)
    given = jax.nn.one_hot(batch.grade, NUM_GRADES)
    expected = losses.total_loss(output, given, batch, method.loss).total
    value = META_LOSSES["both_tasks"](MetaInputs(output, 0 * given, state.label_mean, batch, method))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    new, metrics = meta_step(state, batch, method=method)
    moved = jax.jit(lambda a, b: optax.tree.norm(optax.tree.sub(a, b)))(new.label.params, state.label.params)
    assert float(moved) == pytest.approx(0.1 * float(metrics["meta_grad_norm"]), rel=1e-3) and float(moved) > 0


@pytest.mark.parametrize("name", ["how_it_works.md", "how_it_works.svg", "extending.md"])
def test_files_that_are_named_exist(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])((?:data|models|method|training|evaluation|cli)/(?:\w+/)*\w+\.py)", text))
    assert named and not [path for path in named if not (ROOT / "pldmlt_jax" / path).is_file()]


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
    absent = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not absent
