"""Checks a config as a whole and reports every error at once, each with the path of its field.

What a single field allows is declared with the field, in `pldmlt_jax.config`. Here are the checks against that, and the
relations between fields: values that are fine on their own and contradict each other.
"""

import dataclasses
import math
import reprlib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pldmlt_jax.config import (
    NO_SET,
    RETIRED_FIELDS,
    Config,
    ConfigSection,
    FieldInfo,
    LossConfig,
    field_infos,
    fields,
)
from pldmlt_jax.errors import ConfigError, UserError, raise_all, suggest_nearest
from pldmlt_jax.evaluation.tta import TILE_STEP_PX
from pldmlt_jax.io.files import FOLDER_NAME, is_folder_name
from pldmlt_jax.method.losses import OVERLAP_LOSSES
from pldmlt_jax.method.virtual_step import META_LOSSES_WITHOUT_DIRECT_PATH, uses_graded_images
from pldmlt_jax.models.build import TARGET_CHANNELS, encoder_depth
from pldmlt_jax.models.checks import network_errors
from pldmlt_jax.models.weights.download import RANDOM_START

MAX_TEXT_CHARACTERS = 4000


def validate_config(config: Config) -> None:
    """Checks types, choices, ranges and relations of all fields.

    Raises:
        ConfigError: The one error of the config.
        ErrorGroup: All errors, if there are several.
    """
    raise_all(config_errors(config))


def config_errors(config: Config) -> list[UserError]:
    """Returns every error of the config. While types are wrong, only those are reported."""
    if errors := list(_type_errors(config)):
        return errors
    infos = field_infos(Config)
    errors = [error for path, value in fields(config) for error in _value_errors(path, value, infos[path])]
    if not any(error.where.startswith("model.") for error in errors):
        errors += network_errors(config.model)
    return errors + [error for relation in RELATIONS for error in relation(config)]


# ---- one field


def _type_errors(section: ConfigSection, prefix: str = "") -> Iterator[UserError]:
    """Yields errors for values of another type, and for attributes that are no fields, which Python lets a file set."""
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(section)}
    for name, value in vars(section).items():
        path = prefix + name
        if name not in kinds:
            similar = suggest_nearest(path, [prefix + known for known in kinds], "see docs/configs.md")
            action = RETIRED_FIELDS[path].action if path in RETIRED_FIELDS else similar
            yield ConfigError(path, "no such config field", "a known config field", action)
        elif not _has_type(value, kinds[name]):
            expected = kinds[name].__name__ if isinstance(kinds[name], type) else str(kinds[name])
            yield ConfigError(path, f"{value!r}", f"a value of type {expected}", "correct the value")
        elif isinstance(value, ConfigSection):
            yield from _type_errors(value, f"{path}.")


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field. An int counts as a float; a bool is no number."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_has_type(item, get_args(kind)[0]) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _value_errors(path: str, value: Any, info: FieldInfo) -> Iterator[UserError]:
    items = value if isinstance(value, tuple) else (value,)
    if info.choices:
        yield from _choice_errors(path, items, info)
    elif info.min is not None and info.max is not None:
        for item in items:
            if not (math.isfinite(item) and info.min <= item <= info.max):
                yield ConfigError(path, f"{item}", f"a number from {info.range_text()}", "set it inside this range")
    elif path == "name" and not is_folder_name(str(value)):
        yield ConfigError(path, reprlib.repr(value), FOLDER_NAME, "shorten it, or leave out the other characters")
    else:
        for text in (item for item in items if isinstance(item, str)):
            if len(text) > MAX_TEXT_CHARACTERS or any(ord(character) < 32 for character in text):
                expected = f"at most {MAX_TEXT_CHARACTERS} characters, without line breaks or other control characters"
                yield ConfigError(path, reprlib.repr(text), expected, "correct the path or name")


def _choice_errors(path: str, items: tuple[str, ...], info: FieldInfo) -> Iterator[UserError]:
    if info.or_none and items == (NO_SET,):
        return
    choices = info.load_choices()
    for item in (name for text in items for name in (text.split(info.separator) if info.separator else [text])):
        if item not in choices:
            expected = "one of " + ", ".join((*choices, NO_SET) if info.or_none else choices)
            action = suggest_nearest(item, choices, "choose one of them")
            yield ConfigError(path, f"unknown name {reprlib.repr(item)}", expected, action)


# ---- relations between fields


def _size_errors(config: Config) -> Iterator[UserError]:
    size_px, crop_px, times = config.data.size_px, config.train.crop_px, encoder_depth(config.model)
    multiple = 2**times
    if size_px % multiple:
        expected = f"a multiple of {multiple}, because the network halves it {times} times"
        yield ConfigError("data.size_px", f"{size_px}", expected, f"use {max(round(size_px / multiple), 1) * multiple}")
    if crop_px % multiple or crop_px > size_px:
        expected = f"0, or a multiple of {multiple} up to data.size_px = {size_px}"
        yield ConfigError("train.crop_px", f"{crop_px}", expected, "windows are cut from the prepared image")


def _cost_errors(config: Config) -> Iterator[UserError]:
    """Yields errors of the options that make training cheaper."""
    model, train = config.model, config.train
    if model.frozen_stages and model.weights in RANDOM_START and not train.init_from:
        found = f"{model.frozen_stages} with model.weights = {model.weights!r}"
        expected = "pretrained weights: these stages would stay frozen at random values"
        yield ConfigError("model.frozen_stages", found, expected, "name a file in model.weights, or set train.init_from")
    if train.batch_size % max(train.microbatches, 1):
        found = f"{train.microbatches} with train.batch_size = {train.batch_size}"
        yield ConfigError("train.microbatches", found, "a divisor of the batch size", "microbatches are equally large")


def _grader_errors(config: Config) -> Iterator[UserError]:
    grader = config.grader
    if grader.size_px % 32:
        yield ConfigError("grader.size_px", f"{grader.size_px}", "a multiple of 32", "round it")
    if not grader.architectures or len(grader.weights) != len(grader.architectures):
        found = f"{len(grader.weights)} entries for {len(grader.architectures)} architectures"
        expected = "at least one grader, and one entry for each: a file, or '' for random initial weights"
        yield ConfigError("grader.weights", found, expected, "make grader.architectures and grader.weights equally long")
    if len(set(grader.architectures)) != len(grader.architectures):
        yield ConfigError("grader.architectures", "the same name twice", "different graders", "name each one once")


def _fold_errors(config: Config) -> Iterator[UserError]:
    if config.data.fold >= config.data.num_folds:
        expected = f"less than data.num_folds = {config.data.num_folds}"
        yield ConfigError("data.fold", f"{config.data.fold}", expected, "folds are counted from 0")


def _grade_errors(config: Config) -> Iterator[UserError]:
    """Yields errors of where grades come from and of what needs them."""
    loss, meta, grading, source = config.loss, config.meta, config.data.grading, config.pseudo.source
    if source == "given" and not loss.grading:
        expected = "a grading loss on the given grades"
        yield ConfigError("pseudo.source", "'given' with loss.grading = False", expected, "set loss.grading to True")
    if source == "given" and grading == NO_SET and uses_graded_images(meta, loss):
        yield ConfigError(
            "data.grading",
            f"{NO_SET!r} with meta.loss = {meta.loss!r} and loss.graded_weight = {loss.graded_weight:g}",
            "a graded set, because these two train on truly graded images",
            "name a graded set, or choose another meta loss and set graded_weight to 0",
        )
    if source != "given" and grading == NO_SET and (loss.grading or meta.enabled):
        yield ConfigError(
            "data.grading",
            f"{NO_SET!r} with loss.grading = {loss.grading} and meta.enabled = {meta.enabled}",
            "a graded set, or training on lesions only",
            "for lesions only, add --config.loss.grading=False --config.meta.enabled=False; if the pixel-labelled images "
            "have grades, add --config.pseudo.source=given --config.meta.enabled=False",
        )
    elif meta.enabled and not loss.grading:
        action = "set meta.enabled to False for the ablation row with L_S only"
        yield ConfigError("meta.enabled", "True without a grading loss", "loss.grading = True", action)
    if source == "none" and (meta.enabled or not loss.grading or not loss.graded_weight):
        yield ConfigError(
            "pseudo.source",
            f"'none' with loss.grading = {loss.grading}, loss.graded_weight = {loss.graded_weight:g} and "
            f"meta.enabled = {meta.enabled}",
            "a grading loss on truly graded images, and no label update",
            "add --config.loss.graded_weight=1 --config.meta.enabled=False",
        )
    if loss.self_training and (grading == NO_SET or source == "given" or not loss.grading):
        yield ConfigError(
            "loss.self_training",
            f"{loss.self_training:g} with data.grading = {grading!r}, pseudo.source = {source!r} and "
            f"loss.grading = {loss.grading}",
            "a graded set whose images are also trained on",
            "name a graded set, set pseudo.source to 'none' or 'graders', and loss.grading to True",
        )


def _loss_errors(config: Config) -> Iterator[UserError]:
    loss = config.loss
    for path, gamma in (("loss.gamma", loss.gamma), ("grader.focal_gamma", config.grader.focal_gamma)):
        if 0 < gamma < 1:
            yield ConfigError(path, f"{gamma}", "0, or at least 1", "the slope at p = 1 is infinite in between")
    if loss.class_weights:
        yield from _class_weight_errors(loss)
    if loss.graded_weight and not loss.grading:
        found = f"{loss.graded_weight} with loss.grading = False"
        yield ConfigError("loss.graded_weight", found, "0, or a grading loss", "change one of the two")


def _class_weight_errors(loss: LossConfig) -> Iterator[UserError]:
    channels = TARGET_CHANNELS.get(loss.target, 0)
    found = f"{len(loss.class_weights)} weights"
    if len(loss.class_weights) != channels:
        expected = f"none, or one for each of the {channels} channels of loss.target = {loss.target!r}"
        yield ConfigError("loss.class_weights", found, expected, "give as many weights as channels")
    elif loss.segmentation in OVERLAP_LOSSES and loss.target == "fused":
        found += f" with loss.segmentation = {loss.segmentation!r}"
        expected = "several lesion channels, because the weights are those of their overlaps"
        yield ConfigError("loss.class_weights", found, expected, "remove the weights, or choose another target")
    elif not any(loss.class_weights[0 if loss.target == "lesions" else 1 :]):
        found, expected = f"{loss.class_weights}", "a weight above 0 for at least one lesion"
        yield ConfigError("loss.class_weights", found, expected, "raise one of the weights")


def _meta_errors(config: Config) -> Iterator[UserError]:
    meta = config.meta
    indirect = meta.enabled and meta.loss in META_LOSSES_WITHOUT_DIRECT_PATH
    if indirect and meta.gradient != "none" and not meta.inner_learning_rate:
        found = f"0 with meta.loss = {meta.loss!r}"
        expected = "above 0, because without a virtual step the gradient of this loss is zero"
        yield ConfigError("meta.inner_learning_rate", found, expected, "raise it, for example to 1e-2")
    if meta.enabled and not config.loss.beta:
        found, expected = "0 with meta.enabled = True", "above 0, because updated labels act only through the grading loss"
        yield ConfigError("loss.beta", found, expected, "raise it, or add --config.meta.enabled=False")
    if meta.inner_optimizer == "adam" and config.optim.optimizer != "adam":
        found = f"'adam' with optim.optimizer = {config.optim.optimizer!r}"
        expected = "the same optimiser as the network's"
        action = "set it to 'sgd': the virtual step with Adam starts from the network's Adam state"
        yield ConfigError("meta.inner_optimizer", found, expected, action)


def _parallel_errors(config: Config) -> Iterator[UserError]:
    parallel = config.parallel
    if parallel.mode == "pmap" and (parallel.num_processes > 1 or parallel.shard_params):
        found = f"'pmap' with num_processes = {parallel.num_processes} and shard_params = {parallel.shard_params}"
        yield ConfigError("parallel.mode", found, "one process, with all parameters on every device", "set it to 'mesh'")
    if parallel.process_id >= parallel.num_processes or bool(parallel.coordinator) != (parallel.num_processes > 1):
        found = f"{parallel.coordinator!r} with process {parallel.process_id} of {parallel.num_processes}"
        expected = "HOST:PORT of the first process, and a process_id for each from 0; with one process, none of these"
        yield ConfigError("parallel.coordinator", found, expected, "see docs/parallel.md")


def _inference_errors(config: Config) -> Iterator[UserError]:
    tile_px = config.inference.tile_px
    if config.inference.mode == "tiles" and tile_px % TILE_STEP_PX:
        expected = f"a multiple of {TILE_STEP_PX}, so that the network halves tiles where it halves the whole image"
        action = f"use {max(round(tile_px / TILE_STEP_PX), 1) * TILE_STEP_PX}"
        yield ConfigError("inference.tile_px", f"{tile_px}", expected, action)


RELATIONS = (
    _size_errors,
    _cost_errors,
    _grader_errors,
    _fold_errors,
    _grade_errors,
    _loss_errors,
    _meta_errors,
    _parallel_errors,
    _inference_errors,
)
"""Checks of related fields, one for each group."""
