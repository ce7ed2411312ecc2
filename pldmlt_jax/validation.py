"""Checks a config as a whole: every error at once, each with its field's path."""

import dataclasses
import math
import re
import reprlib
from collections.abc import Iterator
from typing import Any

from pldmlt_jax.config import NO_SET, Config, LossConfig, fields
from pldmlt_jax.data.enhance import ENHANCEMENTS
from pldmlt_jax.data.masks import REDUCTIONS
from pldmlt_jax.data.specs import DATASETS, set_names
from pldmlt_jax.errors import ConfigError, UserError, nearest, raise_all
from pldmlt_jax.evaluation.views import TILE_STEP_PX, VIEWS
from pldmlt_jax.method.losses import BINARY_ALPHAS, OVERLAP_LOSSES, SEGMENTATION_LOSSES, TARGETS
from pldmlt_jax.method.meta_gradient import META_GRADIENTS, WITHOUT_DIRECT_PATH
from pldmlt_jax.method.pseudo_labels import ENSEMBLES
from pldmlt_jax.method.virtual_step import META_LOSSES
from pldmlt_jax.models.build import DECODERS, ENCODERS, GRADERS, TARGET_CHANNELS, halvings
from pldmlt_jax.models.checks import network_errors
from pldmlt_jax.models.decoder_layers import DECODER_NORMS
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.models.label_update import HIERARCHIES, SOFTMAXES
from pldmlt_jax.models.layers import REMATERIALISATIONS

CHOICES: dict[str, tuple[str, ...]] = {
    "data.segmentation": tuple(name for name, spec in DATASETS.items() if spec.has_masks),
    "data.grading": tuple(name for name, spec in DATASETS.items() if spec.has_grades),
    "data.on_bad_file": ("stop", "skip"),
    "data.resize": ("pad", "stretch"),
    "data.enhance": tuple(ENHANCEMENTS),
    "data.mask_reduction": tuple(REDUCTIONS),
    "data.fusion": ("close", "dilate", "none"),
    "data.image_format": ("png", "jpeg"),
    "data.split": ("official", "folds", "all_folds"),
    "data.grading_split": ("official", "folds", "all_folds"),
    "data.leakage": ("exclude", "as_paper"),
    "model.encoder": tuple(ENCODERS),
    "model.decoder": tuple(DECODERS),
    "model.decoder_norm": tuple(DECODER_NORMS),
    "model.grade_head": tuple(GRADE_HEADS),
    "model.dtype": ("float32", "bfloat16", "float64"),
    "model.rematerialisation": tuple(REMATERIALISATIONS),
    "grader.architectures": tuple(GRADERS),
    "pseudo.source": ("graders", "given", "none"),
    "pseudo.ensemble": tuple(ENSEMBLES),
    "loss.target": tuple(TARGETS),
    "loss.segmentation": tuple(SEGMENTATION_LOSSES),
    "loss.reduction": ("keras", "pixel_mean"),
    "loss.binary_alpha": tuple(BINARY_ALPHAS),
    "meta.loss": tuple(META_LOSSES),
    "meta.gradient": tuple(META_GRADIENTS),
    "meta.inner_optimizer": ("sgd", "adam"),
    "meta.optimizer": ("sgd", "adam"),
    "meta.label_init": ("pseudo_label", "random"),
    "meta.hierarchy": tuple(HIERARCHIES),
    "meta.softmax": tuple(SOFTMAXES),
    "optim.optimizer": ("adam", "sgd"),
    "optim.schedule": ("constant", "cosine"),
    "train.init_parts": ("encoder", "all"),
    "train.unit": ("epoch", "step"),
    "train.monitor": ("loss", "dice"),
    "train.on_nonfinite": ("stop", "skip"),
    "parallel.mode": ("mesh", "pmap"),
    "inference.mode": ("whole", "tiles"),
    "inference.tta": tuple(VIEWS),
    "inference.engine_dtype": ("float32", "bfloat16"),
}
"""Fields that take one of some names (or, for a tuple, several)."""

NAME = "name"
"""The field that names a run, and so a folder."""

PATHS = (
    *("workdir", "data.root", "data.idrid_root", "data.diaretdb1_root", "data.folder_root", "data.ddr_root"),
    *("data.cache_dir", "data.folds_file", "model.weights", "grader.weights", "train.init_from", "parallel.coordinator"),
)
"""Fields that name a file, a folder or a machine (or, for a tuple, several); "" where none is meant."""

MAX_PATH_CHARACTERS = 4000

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "data.size_px": (32, 8192),
    "data.fusion_px": (1, 99),
    "data.agreement": (0, 1),
    "data.num_folds": (2, 100),
    "data.fold": (0, 99),
    "data.val_share": (0.01, 0.5),
    "data.split_seed": (0, 2**31 - 1),
    "data.leakage_distance": (0, 575),
    "data.num_threads": (1, 256),
    "data.augment.rotation_deg": (0, 180),
    "data.augment.min_scale": (0.1, 1),
    "data.augment.photometric": (0, 1),
    "data.augment.blur_px": (0, 20),
    "data.augment.elastic": (0, 0.05),
    "data.synthetic.height_px": (64, 4096),
    "data.synthetic.num_segmentation_train": (2, 10**6),
    "data.synthetic.num_segmentation_test": (1, 10**6),
    "data.synthetic.num_grading_train": (5, 10**6),
    "data.synthetic.num_grading_test": (1, 10**6),
    "data.synthetic.corrupt_share": (0, 1),
    "data.synthetic.seed": (0, 2**31 - 1),
    "model.encoder_filters": (1, 8192),
    "model.encoder_convs": (1, 16),
    "model.encoder_base_filters": (4, 1024),
    "model.encoder_max_blocks": (0, 100),
    "model.decoder_filters": (1, 8192),
    "model.decoder_base_filters": (16, 8192),
    "model.atrous_rates": (1, 1024),
    "model.centre_filters": (0, 8192),
    "model.norm_momentum": (0, 0.99999),
    "model.norm_epsilon": (1e-8, 1),
    "grader.base_filters": (16, 1024),
    "grader.max_blocks": (0, 100),
    "grader.nasnet_momentum": (0, 0.99999),
    "grader.frozen_stages": (0, 5),
    "grader.size_px": (32, 8192),
    "grader.batch_size": (1, 4096),
    "grader.epochs": (1, 10**5),
    "grader.patience_epochs": (1, 10**5),
    "grader.oversample": (0, 1),
    "grader.learning_rate": (0, 10),
    "grader.weight_decay": (0, 10),
    "grader.focal_alpha": (1e-6, 1),
    "grader.focal_gamma": (0, 10),
    "pseudo.dilation_share": (0, 0.5),
    "pseudo.candidate_ratio": (0, 1),
    "pseudo.coverage_top": (0.001, 1),
    "loss.beta": (0, 1000),
    "loss.graded_weight": (0, 1000),
    "loss.self_training": (0, 1000),
    "loss.class_weights": (0, 1000),
    "loss.missed_weight": (0, 1),
    "loss.tversky_gamma": (0.1, 10),
    "loss.alpha": (1e-6, 1),
    "loss.gamma": (0, 10),
    "meta.inner_learning_rate": (0, 100),
    "meta.learning_rate": (0, 100),
    "meta.hidden": (1, 65536),
    "meta.kappa": (0, 100),
    "meta.entropy_weight": (0, 1000),
    "meta.mean_decay": (0, 0.99999),
    "optim.learning_rate": (0, 10),
    "optim.decoder_factor": (0, 1000),
    "optim.warmup_steps": (0, 10**7),
    "optim.clip_norm": (0, 10**6),
    "optim.ema_decay": (0, 0.99999),
    "train.batch_size": (1, 4096),
    "train.microbatches": (1, 4096),
    "train.crop_px": (0, 8192),
    "train.crop_lesion_share": (0, 1),
    "train.oversample": (0, 1),
    "train.theta_units": (1, 10**6),
    "train.label_units": (1, 10**6),
    "train.max_rounds": (1, 10**6),
    "train.max_minutes": (0, 10**6),
    "train.patience_rounds": (1, 10**6),
    "train.min_delta": (0, 10),
    "train.eval_every_rounds": (1, 10**6),
    "train.log_every_steps": (1, 10**6),
    "train.save_every_minutes": (0, 10**6),
    "parallel.num_devices": (0, 65536),
    "parallel.num_processes": (1, 65536),
    "parallel.process_id": (0, 65535),
    "evaluation.batch_size": (1, 4096),
    "evaluation.threshold": (0, 1),
    "evaluation.num_examples": (0, 1000),
    "inference.tile_px": (32, 8192),
    "inference.overlap": (0, 0.9),
    "inference.threshold": (0, 1),
}
"""Least and greatest value, both allowed; of each item where the field is a tuple. Every number of the config is here."""


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of a field's default; a whole number is a float too, a bool is no number."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(item, default[0] if default else 0.0) for item in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def _type_errors(config: Any, default: Any, prefix: str = "") -> Iterator[UserError]:
    """Fields that do not exist, which a config file can assign all the same, and values of a wrong type."""
    known = [field.name for field in dataclasses.fields(default)]
    for name, value in vars(config).items():
        path = prefix + name
        if name not in known:
            action = nearest(path, [prefix + other for other in known], "see pldmlt_jax/config.py")
            yield ConfigError(path, "no such config field", "a known config field", action)
        elif not _fits(value, getattr(default, name)):
            expected = type(getattr(default, name)).__name__
            yield ConfigError(path, f"{value!r}", f"a value of type {expected}", "correct the value")
        elif dataclasses.is_dataclass(value):
            yield from _type_errors(value, getattr(default, name), f"{path}.")


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _choice_errors(values: dict[str, Any]) -> Iterator[UserError]:
    for path, known in CHOICES.items():
        if path == "data.grading" and values[path] == NO_SET:
            continue
        named = set_names(values[path]) if path in ("data.segmentation", "data.grading") else _items(values[path])
        for item in named:
            if item not in known:
                yield ConfigError(
                    path, f"unknown name {reprlib.repr(item)}", "one of " + ", ".join(known), "choose one of them"
                )


def _range_errors(values: dict[str, Any]) -> Iterator[UserError]:
    for path, (low, high) in RANGES.items():
        for item in _items(values[path]):
            if not (math.isfinite(item) and low <= item <= high):
                yield ConfigError(path, f"{item}", f"a number from {low:g} to {high:g}", "set it inside this range")


def _text_errors(values: dict[str, Any]) -> Iterator[UserError]:
    if not re.fullmatch(r"\w[\w.+ -]{0,99}", values[NAME]):
        expected = "a folder's name: letters, digits, and . + - _ behind the first"
        yield ConfigError(NAME, repr(values[NAME]), expected, "shorten it, or leave out what is something else")
    for path in PATHS:
        for text in _items(values[path]):
            if len(text) > MAX_PATH_CHARACTERS or any(ord(character) < 32 for character in text):
                expected = f"at most {MAX_PATH_CHARACTERS} characters, none of them a line break or the like"
                yield ConfigError(path, reprlib.repr(text), expected, "name a file or a folder")


def _class_weight_errors(loss: LossConfig) -> Iterator[UserError]:
    channels = TARGET_CHANNELS.get(loss.target, 0)
    found = f"{len(loss.class_weights)} weights"
    if len(loss.class_weights) != channels:
        expected = f"one a channel of loss.target = {loss.target!r}: {channels}, or none"
        yield ConfigError("loss.class_weights", found, expected, "give as many")
    elif loss.segmentation in OVERLAP_LOSSES and loss.target == "fused":
        found += f" with loss.segmentation = {loss.segmentation!r}"
        expected = "several lesion channels, whose overlaps are weighed against each other"
        yield ConfigError("loss.class_weights", found, expected, "leave the weights away, or take another target")
    elif not any(loss.class_weights[0 if loss.target == "lesions" else 1 :]):
        found = f"{loss.class_weights}"
        yield ConfigError("loss.class_weights", found, "a lesion that weighs more than 0", "raise one of the weights")


def _relation_errors(config: Config) -> Iterator[UserError]:
    model, grader, loss, meta = config.model, config.grader, config.loss, config.meta
    multiple = 2 ** halvings(model)
    if config.data.size_px % multiple:
        yield ConfigError(
            "data.size_px",
            f"{config.data.size_px}",
            f"a multiple of {multiple}, for the network halves it {halvings(model)} times",
            f"use {max(round(config.data.size_px / multiple), 1) * multiple}",
        )
    if config.train.crop_px % multiple or config.train.crop_px > config.data.size_px:
        yield ConfigError(
            "train.crop_px",
            f"{config.train.crop_px}",
            f"a multiple of {multiple}, data.size_px = {config.data.size_px} at most, or 0",
            "a window is a part of the prepared image",
        )
    if grader.size_px % 32:
        yield ConfigError("grader.size_px", f"{grader.size_px}", "a multiple of 32", "round it to one")
    if not grader.architectures or len(grader.weights) != len(grader.architectures):
        yield ConfigError(
            "grader.weights",
            f"{len(grader.weights)} entries for {len(grader.architectures)} architectures",
            "one file a grader, '' for a random start, and at least one grader",
            "make grader.architectures and grader.weights equally long",
        )
    if len(set(grader.architectures)) != len(grader.architectures):
        yield ConfigError("grader.architectures", "the same name twice", "different graders", "name each once")
    for path, gamma in (("loss.gamma", loss.gamma), ("grader.focal_gamma", grader.focal_gamma)):
        if 0 < gamma < 1:
            yield ConfigError(path, f"{gamma}", "0, or at least 1", "the slope at p = 1 is infinite in between")
    if config.data.fold >= config.data.num_folds:
        yield ConfigError(
            "data.fold",
            f"{config.data.fold}",
            f"less than data.num_folds = {config.data.num_folds}",
            "folds are counted from 0",
        )
    given = config.pseudo.source == "given"
    if given and (meta.enabled or not loss.grading):
        yield ConfigError(
            "pseudo.source",
            f"'given' with loss.grading = {loss.grading} and meta.enabled = {meta.enabled}",
            "a grading loss against the given grades, which no label network rewrites",
            "add --config.meta.enabled=False",
        )
    if config.data.grading == NO_SET and not given and (loss.grading or meta.enabled):
        yield ConfigError(
            "data.grading",
            f"{NO_SET!r} with loss.grading = {loss.grading} and meta.enabled = {meta.enabled}",
            "a graded set, or lesions alone",
            "for lesions alone add --config.loss.grading=False --config.meta.enabled=False; where the pixel-labelled "
            "photographs have grades, --config.pseudo.source=given --config.meta.enabled=False",
        )
    elif meta.enabled and not loss.grading:
        yield ConfigError(
            "meta.enabled",
            "True without a grading loss",
            "loss.grading = True",
            "switch meta.enabled off for the ablation row with L_S alone",
        )
    ungraded = config.pseudo.source == "none"
    if ungraded and (meta.enabled or not loss.grading or not loss.graded_weight):
        yield ConfigError(
            "pseudo.source",
            f"'none' with loss.grading = {loss.grading}, loss.graded_weight = {loss.graded_weight:g} and "
            f"meta.enabled = {meta.enabled}",
            "grades that are learnt from truly graded images alone",
            "set --config.loss.graded_weight=1 --config.meta.enabled=False",
        )
    if loss.self_training and (config.data.grading == NO_SET or given or not loss.grading):
        yield ConfigError(
            "loss.self_training",
            f"{loss.self_training:g} with data.grading = {config.data.grading!r}, pseudo.source = {config.pseudo.source!r} "
            f"and loss.grading = {loss.grading}",
            "a graded set whose photographs are learnt from as well",
            "name one, take pseudo.source 'none' or 'graders', and switch loss.grading on",
        )
    if loss.class_weights:
        yield from _class_weight_errors(loss)
    if loss.graded_weight and not loss.grading:
        found = f"{loss.graded_weight} while loss.grading is off"
        yield ConfigError("loss.graded_weight", found, "0, or grades that are learnt", "switch one of the two")
    if meta.enabled and meta.gradient == "first_order" and meta.loss in WITHOUT_DIRECT_PATH:
        yield ConfigError(
            "meta.gradient",
            f"'first_order' with meta.loss = {meta.loss!r}",
            "a meta loss that the label network reaches directly: 'paper' or 'maxl'",
            "the gradient would be zero; take 'exact'",
        )
    train = config.train
    if train.batch_size % max(train.microbatches, 1):
        yield ConfigError(
            "train.microbatches",
            f"{train.microbatches} for train.batch_size = {train.batch_size}",
            "a divisor of it",
            "microbatches are equally large",
        )
    if train.same_batch and (
        not meta.enabled
        or meta.gradient == "first_order"
        or loss.graded_weight
        or loss.self_training
        or train.theta_units != train.label_units
    ):
        yield ConfigError(
            "train.same_batch",
            f"True with meta.enabled = {meta.enabled}, meta.gradient = {meta.gradient!r}, loss.graded_weight = "
            f"{loss.graded_weight}, theta_units = {train.theta_units} and label_units = {train.label_units}",
            "the label update with a virtual step to share, no other stream, and as many (A) as (B)",
            "set these, or same_batch to False",
        )
    parallel = config.parallel
    if parallel.mode == "pmap" and (parallel.num_processes > 1 or parallel.shard_params):
        yield ConfigError(
            "parallel.mode",
            f"'pmap' with num_processes = {parallel.num_processes} and shard_params = {parallel.shard_params}",
            "one process, whose devices have all parameters each",
            "take 'mesh'",
        )
    if parallel.process_id >= parallel.num_processes or bool(parallel.coordinator) != (parallel.num_processes > 1):
        yield ConfigError(
            "parallel.coordinator",
            f"{parallel.coordinator!r} with process {parallel.process_id} of {parallel.num_processes}",
            "for several processes HOST:PORT of the first, their number, and each one's own from 0; for one none of these",
            "see docs/parallel.md",
        )
    if config.inference.mode == "tiles" and config.inference.tile_px % TILE_STEP_PX:
        yield ConfigError(
            "inference.tile_px",
            f"{config.inference.tile_px}",
            f"a multiple of {TILE_STEP_PX}, so that the network halves windows as it halves the whole image",
            f"use {max(round(config.inference.tile_px / TILE_STEP_PX), 1) * TILE_STEP_PX}",
        )
    if meta.inner_optimizer == "adam" and config.optim.optimizer != "adam":
        yield ConfigError(
            "meta.inner_optimizer",
            "'adam' while optim.optimizer is not",
            "the network's own optimiser",
            "the look-ahead goes on from the network's Adam state; use 'sgd'",
        )


def config_errors(config: Config) -> list[UserError]:
    """Every unknown name, number outside its range and contradiction between fields; wrong types before all of these."""
    if wrong := list(_type_errors(config, Config())):
        return wrong
    values = dict(fields(config))
    alone = [*_choice_errors(values), *_range_errors(values), *_text_errors(values)]
    network = [] if any(error.where.startswith("model.") for error in alone) else network_errors(config.model)
    return [*alone, *network, *_relation_errors(config)]


def validate(config: Config) -> None:
    """Raises every error of the config at once, as one `ConfigError` or an `ErrorGroup`."""
    raise_all(config_errors(config))
