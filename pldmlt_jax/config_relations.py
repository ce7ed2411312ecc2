"""Fields of a config that contradict each other, though each is sensible on its own."""

from collections.abc import Iterator

from pldmlt_jax.config import NO_SET, Config, LossConfig
from pldmlt_jax.errors import ConfigError, UserError
from pldmlt_jax.evaluation.tta import TILE_STEP_PX
from pldmlt_jax.method.losses import OVERLAP_LOSSES
from pldmlt_jax.method.meta_gradient import META_LOSSES_WITHOUT_DIRECT_PATH
from pldmlt_jax.method.virtual_step import uses_graded_images
from pldmlt_jax.models.build import TARGET_CHANNELS, encoder_depth
from pldmlt_jax.models.weights.download import NO_WEIGHTS


def _size_errors(config: Config) -> Iterator[UserError]:
    multiple = 2 ** encoder_depth(config.model)
    if config.data.size_px % multiple:
        yield ConfigError(
            "data.size_px",
            f"{config.data.size_px}",
            f"a multiple of {multiple}, for the network halves it {encoder_depth(config.model)} times",
            f"use {max(round(config.data.size_px / multiple), 1) * multiple}",
        )
    if config.train.crop_px % multiple or config.train.crop_px > config.data.size_px:
        yield ConfigError(
            "train.crop_px",
            f"{config.train.crop_px}",
            f"a multiple of {multiple}, data.size_px = {config.data.size_px} at most, or 0",
            "a window is a part of the prepared image",
        )


def _saving_errors(config: Config) -> Iterator[UserError]:
    """Of what makes training cheaper."""
    model = config.model
    if model.frozen_stages and model.weights in NO_WEIGHTS and not config.train.init_from:
        found = f"{model.frozen_stages} with model.weights = {model.weights!r}"
        expected = "stages that start from something: frozen at random they would stay so"
        yield ConfigError("model.frozen_stages", found, expected, "name a file in model.weights, or train.init_from")
    if model.weight_gradients != "xla" and config.meta.enabled and config.meta.gradient == "forward":
        found = f"{model.weight_gradients!r} with meta.gradient = 'forward'"
        yield ConfigError("model.weight_gradients", found, "'xla', or reverse mode", "take meta.gradient = 'exact'")


def _grader_errors(config: Config) -> Iterator[UserError]:
    grader = config.grader
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


def _focal_errors(config: Config) -> Iterator[UserError]:
    for path, gamma in (("loss.gamma", config.loss.gamma), ("grader.focal_gamma", config.grader.focal_gamma)):
        if 0 < gamma < 1:
            yield ConfigError(path, f"{gamma}", "0, or at least 1", "the slope at p = 1 is infinite in between")


def _fold_errors(config: Config) -> Iterator[UserError]:
    if config.data.fold >= config.data.num_folds:
        yield ConfigError(
            "data.fold",
            f"{config.data.fold}",
            f"less than data.num_folds = {config.data.num_folds}",
            "folds are counted from 0",
        )


def _grade_errors(config: Config) -> Iterator[UserError]:
    loss, meta = config.loss, config.meta
    given = config.pseudo.source == "given"
    if given and not loss.grading:
        found, expected = "'given' while loss.grading is off", "a grading loss against the given grades"
        yield ConfigError("pseudo.source", found, expected, "switch loss.grading on")
    if given and config.data.grading == NO_SET and uses_graded_images(meta, loss):
        yield ConfigError(
            "data.grading",
            f"{NO_SET!r} with meta.loss = {meta.loss!r} and loss.graded_weight = {loss.graded_weight:g}",
            "a graded set: truly graded photographs stand beside the pixel-labelled ones",
            "name one, take another meta loss, or graded_weight 0",
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


def _loss_errors(config: Config) -> Iterator[UserError]:
    loss = config.loss
    if loss.class_weights:
        yield from _class_weight_errors(loss)
    if loss.graded_weight and not loss.grading:
        found = f"{loss.graded_weight} while loss.grading is off"
        yield ConfigError("loss.graded_weight", found, "0, or grades that are learnt", "switch one of the two")


def _meta_errors(config: Config) -> Iterator[UserError]:
    meta = config.meta
    if meta.enabled and meta.gradient == "first_order" and meta.loss in META_LOSSES_WITHOUT_DIRECT_PATH:
        yield ConfigError(
            "meta.gradient",
            f"'first_order' with meta.loss = {meta.loss!r}",
            "a meta loss that the label network reaches directly: 'paper' or 'maxl'",
            "the gradient would be zero; take 'exact'",
        )
    if meta.enabled and not config.loss.beta:
        found, expected = "0 with meta.enabled = True", "a grading loss that counts: the updated labels act through it alone"
        yield ConfigError("loss.beta", found, expected, "raise it, or set --config.meta.enabled=False")
    if (
        meta.enabled
        and not meta.inner_learning_rate
        and meta.gradient != "none"
        and meta.loss in META_LOSSES_WITHOUT_DIRECT_PATH
    ):
        yield ConfigError(
            "meta.inner_learning_rate",
            f"0 with meta.loss = {meta.loss!r}",
            "a virtual step: the label network is reached through it alone",
            "the gradient would be zero; raise it, 1e-2 is recommended",
        )
    if meta.inner_optimizer == "adam" and config.optim.optimizer != "adam":
        yield ConfigError(
            "meta.inner_optimizer",
            "'adam' while optim.optimizer is not",
            "the network's own optimiser",
            "the look-ahead goes on from the network's Adam state; use 'sgd'",
        )


def _train_errors(config: Config) -> Iterator[UserError]:
    train, loss, meta = config.train, config.loss, config.meta
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


def _parallel_errors(config: Config) -> Iterator[UserError]:
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


def _inference_errors(config: Config) -> Iterator[UserError]:
    if config.inference.mode == "tiles" and config.inference.tile_px % TILE_STEP_PX:
        yield ConfigError(
            "inference.tile_px",
            f"{config.inference.tile_px}",
            f"a multiple of {TILE_STEP_PX}, so that the network halves windows as it halves the whole image",
            f"use {max(round(config.inference.tile_px / TILE_STEP_PX), 1) * TILE_STEP_PX}",
        )


RELATIONS = (
    _size_errors,
    _saving_errors,
    _grader_errors,
    _focal_errors,
    _fold_errors,
    _grade_errors,
    _loss_errors,
    _meta_errors,
    _train_errors,
    _parallel_errors,
    _inference_errors,
)
"""One check a group of fields; `relation_errors` runs all."""


def relation_errors(config: Config) -> Iterator[UserError]:
    """Every contradiction between fields."""
    for check in RELATIONS:
        yield from check(config)
