"""Checks a config as a whole: every error at once, each with its field's path."""

import dataclasses
import math
import re
import reprlib
from collections.abc import Collection, Iterator
from typing import Any

from pldmlt_jax.config import NO_SET, Config, fields
from pldmlt_jax.config_relations import relation_errors
from pldmlt_jax.data.datasets.registry import SetNames, parse_set_names
from pldmlt_jax.data.preprocessing.contrast import ENHANCEMENTS
from pldmlt_jax.data.preprocessing.masks import REDUCTIONS
from pldmlt_jax.errors import ConfigError, UserError, nearest, raise_all
from pldmlt_jax.evaluation.tta import VIEWS
from pldmlt_jax.method.losses import BINARY_ALPHAS, SEGMENTATION_LOSSES, TARGETS
from pldmlt_jax.method.meta_gradient import META_GRADIENTS
from pldmlt_jax.method.pseudo_labels import ENSEMBLES
from pldmlt_jax.method.virtual_step import META_LOSSES
from pldmlt_jax.models.build import DECODERS, ENCODERS, GRADERS
from pldmlt_jax.models.checks import network_errors
from pldmlt_jax.models.decoders.layers import DECODER_NORMS
from pldmlt_jax.models.grade_heads import GRADE_HEADS
from pldmlt_jax.models.label_update import HIERARCHIES, SOFTMAXES
from pldmlt_jax.models.layers import REMATERIALISATIONS
from pldmlt_jax.models.weight_gradients import WEIGHT_GRADIENTS

CHOICES: dict[str, Collection[str]] = {
    "data.segmentation": SetNames(lambda spec: spec.has_masks),
    "data.grading": SetNames(lambda spec: spec.has_grades),
    "data.on_bad_file": ("stop", "skip"),
    "data.resize": ("pad", "stretch"),
    "data.enhance": ENHANCEMENTS,
    "data.mask_reduction": REDUCTIONS,
    "data.fusion": ("close", "dilate", "none"),
    "data.image_format": ("png", "jpeg"),
    "data.split": ("official", "folds", "all_folds"),
    "data.grading_split": ("official", "folds", "all_folds"),
    "data.leakage": ("exclude", "as_paper"),
    "model.encoder": ENCODERS,
    "model.decoder": DECODERS,
    "model.decoder_norm": DECODER_NORMS,
    "model.grade_head": GRADE_HEADS,
    "model.dtype": ("float32", "bfloat16", "float64"),
    "model.rematerialisation": REMATERIALISATIONS,
    "model.weight_gradients": WEIGHT_GRADIENTS,
    "grader.architectures": GRADERS,
    "pseudo.source": ("graders", "given", "none"),
    "pseudo.ensemble": ENSEMBLES,
    "loss.target": TARGETS,
    "loss.segmentation": SEGMENTATION_LOSSES,
    "loss.reduction": ("keras", "pixel_mean"),
    "loss.binary_alpha": BINARY_ALPHAS,
    "meta.loss": META_LOSSES,
    "meta.gradient": META_GRADIENTS,
    "meta.inner_optimizer": ("sgd", "adam"),
    "meta.optimizer": ("sgd", "adam"),
    "meta.label_init": ("pseudo_label", "random"),
    "meta.hierarchy": HIERARCHIES,
    "meta.softmax": SOFTMAXES,
    "optim.optimizer": ("adam", "sgd"),
    "optim.schedule": ("constant", "cosine"),
    "train.init_parts": ("encoder", "all"),
    "train.unit": ("epoch", "step"),
    "train.monitor": ("loss", "dice"),
    "train.on_nonfinite": ("stop", "skip"),
    "parallel.mode": ("mesh", "pmap"),
    "inference.mode": ("whole", "tiles"),
    "inference.tta": VIEWS,
    "inference.engine_dtype": ("float32", "bfloat16"),
}
"""Fields that take one of some names (or, for a tuple, several). The tables themselves, for they can be added to."""

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
    "model.frozen_stages": (0, 16),
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
            action = nearest(path, [prefix + other for other in known], "see docs/configs.md")
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
        named = parse_set_names(values[path]) if path in ("data.segmentation", "data.grading") else _items(values[path])
        for item in named:
            if item not in known:
                yield ConfigError(
                    path,
                    f"unknown name {reprlib.repr(item)}",
                    "one of " + ", ".join(known),
                    nearest(item, tuple(known), "choose one of them"),
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


def config_errors(config: Config) -> list[UserError]:
    """Every unknown name, number outside its range and contradiction between fields; wrong types before all of these."""
    if wrong := list(_type_errors(config, Config())):
        return wrong
    values = dict(fields(config))
    alone = [*_choice_errors(values), *_range_errors(values), *_text_errors(values)]
    network = [] if any(error.where.startswith("model.") for error in alone) else network_errors(config.model)
    return [*alone, *network, *relation_errors(config)]


def validate_config(config: Config) -> None:
    """Raises every error of the config at once, as one `ConfigError` or an `ErrorGroup`."""
    raise_all(config_errors(config))
