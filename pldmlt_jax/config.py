"""Every field of a run: its one name, type, default, unit and meaning.

A file under `configs/` defines `get_config() -> Config` and sets only values. Defaults are the paper's own setting where
the paper gives one ("literal"), else this project's choice. `validate` reports every error at once.

The parts are hashable by value: frozen copies of them are static arguments of the jitted steps.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NO_SET = "none"


class Part:
    """A config or a part of one: it can be changed, until `frozen`."""

    __slots__ = ("_is_frozen",)  # no field, and so not among `vars`

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_is_frozen", False):
            raise dataclasses.FrozenInstanceError(f"{name}: the config has been validated and cannot be changed any more")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)
        object.__delattr__(self, name)


@dataclass(unsafe_hash=True)
class AugmentConfig(Part):
    """Training images only; image and masks by one geometry. The paper names the operations, not their ranges."""

    flip: bool = True  # horizontal and vertical, each with probability 1/2
    rotation_deg: float = 180.0  # uniform in [-rotation_deg, rotation_deg]
    min_scale: float = 0.8  # side of the random crop relative to the image, uniform in [min_scale, 1], rescaled to full
    photometric: float = 0.0  # strength of brightness, contrast and saturation jitter, 0 = off
    blur_px: float = 0.0  # standard deviation of a Gaussian blur, uniform in [0, blur_px]; 0 = off
    elastic: float = 0.0  # standard deviation of a smooth deformation, as a share of the image's side; 0 = off


@dataclass(unsafe_hash=True)
class SyntheticConfig(Part):
    """The embedded synthetic set: written once as files in IDRiD's layout, then read like any other set."""

    height_px: int = 384  # height of the drawn photographs; the width is 1.5 times that
    num_segmentation_train: int = 54  # pixel-labelled photographs to train on
    num_segmentation_test: int = 27  # and to test on
    num_grading_train: int = 413  # graded photographs to train on
    num_grading_test: int = 103  # and to test on
    corrupt_share: float = 0.0  # share of the training grades, of both parts, replaced by a wrong one
    seed: int = 0  # of all drawings


@dataclass(unsafe_hash=True)
class DataConfig(Part):
    segmentation: str = "idrid_s"  # pixel-labelled set, a key of DATASETS, or several that are pooled: "idrid_s+diaretdb1"
    grading: str = "idrid_d"  # graded set, likewise; "none": there is none, and only lesions are learnt
    root: str = "data"  # holds one folder a set: IDRiD/, ...
    idrid_root: str = ""  # the IDRiD folder itself, where it is not `root`/IDRiD
    diaretdb1_root: str = ""  # the DiaRetDB1 folder itself, where it is not `root`/DiaRetDB1
    folder_root: str = ""  # one's own photographs, where they are not in `root`/folder
    ddr_root: str = ""  # the DDR folder itself, where it is not `root`/DDR-dataset
    on_bad_file: str = "stop"  # "stop" with the list of all bad files, or "skip": go on without them, count and list them
    cache_dir: str = "data_cache"  # prepared sets and the synthetic photographs
    size_px: int = 1024  # side of the square that the multi-task network sees
    fov_crop: bool = True  # crop to the field of view first
    resize: str = "pad"  # "pad": keep the aspect ratio, pad with zeros; "stretch": literal reading of 1024x1024
    enhance: str = "none"  # contrast of the network's view: "none", "clahe" or "ben_graham"
    mask_reduction: str = "max"  # of training masks: "max" loses no lesion, "area" keeps areas, "area_keep" does both
    fusion: str = "close"  # morphology on the union of the four lesions: "close", "dilate" or "none"
    fusion_px: int = 3  # diameter of its elliptical structuring element at the original size
    agreement: float = 0.75  # DiaRetDB1: share of the experts' votes from which a pixel is of a lesion (the set's own)
    agreement_weighted: bool = True  # DiaRetDB1: votes count by the experts' confidence (the set's own)
    image_format: str = "png"  # storage of the prepared image: "png" (lossless) or "jpeg" (quality 95, faster to read)
    split: str = "official"  # segmentation: "official" splits, "folds" of the official training part, or "all_folds"
    grading_split: str = "official"  # the same for the graded set
    num_folds: int = 5  # of `split` and `grading_split`
    fold: int = 0  # the held-out fold, reported as `test`
    val_share: float = 0.2  # share of the training images set aside for early stopping: the nearest 1/k
    folds_file: str = ""  # segmentation: a CSV of folds to take in place of our own, as `prepare` writes it
    split_seed: int = 0  # of folds and of the share for early stopping
    leakage: str = "exclude"  # "exclude": graders never see a photograph of the segmentation set; "as_paper": they do
    leakage_distance: int = 88  # same eye: at most so many of the 576 bits of two photographs' hashes differ
    num_threads: int = 4  # threads that decode and augment
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)


@dataclass(unsafe_hash=True)
class ModelConfig(Part):
    """The multi-task network of stage 2."""

    encoder: str = "vgg16"  # a key of ENCODERS
    decoder: str = "unet"  # a key of DECODERS
    encoder_filters: tuple[int, ...] = (64, 128, 256, 512, 512)  # of VGG's blocks
    encoder_convs: tuple[int, ...] = (2, 2, 3, 3, 3)  # of VGG's blocks
    encoder_norm: bool = False  # batch normalisation in VGG, which the paper's has not: for narrow nets without weights
    encoder_base_filters: int = 64  # width of the stem of ResNet, ResNeXt and DenseNet (full size: 64)
    encoder_max_blocks: int = 0  # of these: at most so many blocks a stage, 0 = the architecture's own depth
    frozen_stages: int = 0  # leading stages of the encoder that keep their weights: less to compute, and fewer to fit
    decoder_filters: tuple[int, ...] = (256, 128, 64, 32, 16)  # of U-Net's stages
    centre_filters: int = 512  # of U-Net's block on VGG's pool5; other encoders have none, as in the reference
    decoder_base_filters: int = 256  # width of FPN and DeepLabv3+; LinkNet's last block has an eighth
    atrous_rates: tuple[int, ...] = (12, 24, 36)  # of DeepLabv3+, in pixels of a sixteenth of the image's size
    grade_head: str = "softmax"  # the paper's; or MTUnet's variants "ordinal" and "regression"
    full_res_skip: bool = False  # a skip connection at full resolution, which the reference U-Net lacks
    decoder_norm: str = "batch"  # the paper's; or "group", which does not depend on the batch (FPN's is always that)
    norm_momentum: float = 0.99  # decay of the decoder's running statistics
    norm_epsilon: float = 1e-3  # of the decoder's normalisation, added to the variance
    dtype: str = "float32"  # of activations: "float32", "bfloat16" or "float64" (tests); parameters stay float32
    rematerialisation: str = "none"  # "blocks" or "convs": computed twice, for less memory (not on a CPU)
    weight_gradients: str = "xla"  # of VGG's and U-Net's 3x3 convolutions; "bfloat16": faster with AMX, more memory
    weights: str = ""  # of the encoder: a file (.pth, .safetensors, Keras' .h5) or a published one's name; "" = He-normal


@dataclass(unsafe_hash=True)
class GraderConfig(Part):
    """Stage 1: the graders that make the pseudo-labels."""

    architectures: tuple[str, ...] = ("resnext50_32x4d", "resnext101_32x8d")  # keys of GRADERS
    weights: tuple[str, ...] = ("", "")  # for each as model.weights, or "encoder": the same as that
    base_filters: int = 64  # width of the stem (full size: 64)
    max_blocks: int = 0  # at most so many blocks a stage, 0 = the architecture's own depth
    nasnet_momentum: float = 0.9997  # decay of NASNet's running statistics (Keras'), too slow for a few thousand steps
    frozen_stages: int = 0  # leading stages of the encoder that are not trained
    size_px: int = 512  # side of the square that graders see
    batch_size: int = 8  # images a step
    epochs: int = 30  # at most
    patience_epochs: int = 8  # stop after so many epochs without a better validation kappa
    learning_rate: float = 1e-4  # of Adam at the start; it falls to 0 as a cosine
    weight_decay: float = 1e-4  # without effect where stages are frozen
    class_weights: bool = False  # weigh grades by their inverse frequency
    oversample: float = 0.0  # rarer grades are drawn more often: 0 = as they are, 1 = all grades equally often
    focal_alpha: float = 0.25  # of the focal loss (Eq. 2)
    focal_gamma: float = 2.0  # of the focal loss (Eq. 2)


@dataclass(unsafe_hash=True)
class PseudoLabelConfig(Part):
    source: str = "graders"  # stage 1; "given": the pixel-labelled set's own grades; "none": it has none (MTUnet)
    ensemble: str = "most_confident"  # the paper's; or "mean" of the probabilities
    temperature: bool = False  # scale each grader's logits by a temperature fitted on its validation images first
    refine: bool = True  # refine by Grad-CAM and the lesion masks
    dilation_share: float = 0.02  # lesions are dilated by this share of the field of view's width before comparing
    candidate_ratio: float = 0.5  # a grade stays a candidate with at least this share of the best map's agreement
    coverage_top: float = 0.2  # coverage: share of lesion pixels inside this top share of the map
    disc_rejection: bool = True  # reject grades whose map sits on the optic disc


@dataclass(unsafe_hash=True)
class LossConfig(Part):
    """L = L_S + beta L_C (Eq. 3)."""

    target: str = "fused"  # "fused" (background + lesion), "lesions" (four sigmoids) or "exclusive" (background + four)
    segmentation: str = "focal"  # L_S: "focal" (literal), "dice_ce" (recommended) or another of SEGMENTATION_LOSSES
    class_weights: tuple[float, ...] = ()  # of the segmentation's channels in L_S; () = all 1
    absent_overlap: bool = True  # "dice", "dice_ce", "focal_tversky": lesions that the batch lacks count, too
    missed_weight: float = 0.7  # "focal_tversky": of missed lesion pixels; false ones weigh 1 - this
    tversky_gamma: float = 0.75  # "focal_tversky": power of 1 - index; 1 = Tversky loss
    grading: bool = True  # False: L_S alone (ablation row 1)
    beta: float = 0.8  # weight of the grading loss
    self_training: float = 0.0  # MTUnet: weight of L_S on truly graded images against the network's own masks; 0 = none
    graded_weight: float = 0.0  # weight of a grading loss on truly graded images beside L, which the paper lacks; 0 = none
    alpha: float = 0.25  # of the focal losses (Eq. 2)
    gamma: float = 2.0  # of the focal losses (Eq. 2)
    reduction: str = "keras"  # "keras": mean over pixels and classes (literal); "pixel_mean": mean over pixels
    binary_alpha: str = (
        "retinanet"  # `lesions` only: "retinanet" weighs positives alpha, negatives 1-alpha; "keras" both alpha
    )


@dataclass(unsafe_hash=True)
class MetaConfig(Part):
    """The label-update network and its meta step (Algorithm 1, lines 15 to 22)."""

    enabled: bool = True  # False: the pseudo-labels stay as they are (ablation row 2)
    loss: str = "paper"  # J: "paper", "indirect", "anchored", "maxl", or "trusted" (on truly graded images, not the paper's)
    gradient: str = "exact"  # of J: "exact", or "none": the label network stays as it starts
    inner_optimizer: str = "sgd"  # of theta*: "sgd" or "adam" (from theta's own optimiser state)
    inner_learning_rate: float = 5e-5  # epsilon of line 20
    optimizer: str = "sgd"  # of theta_1: "sgd" (literal) or "adam"
    learning_rate: float = 5e-5  # vartheta of line 21
    hidden: tuple[int, ...] = (256,)  # widths of the label-update network's hidden layers
    kappa: float = 4.0  # logit that the pseudo-label starts with
    label_init: str = "pseudo_label"  # or "random" (literal): no kappa term
    hierarchy: str = "full"  # psi: "full", "ordinal" (neighbours of the pseudo-label) or "evidence" (what the masks admit)
    softmax: str = "masked"  # or "literal": Eq. 4 as printed, which leaves masked grades a share
    entropy_weight: float = 0.2  # lambda of `maxl`
    mean_decay: float = 0.9  # of the running mean of the soft labels, for `maxl` at small batches


@dataclass(unsafe_hash=True)
class OptimConfig(Part):
    """The optimiser of theta."""

    optimizer: str = "adam"  # or "sgd" (tests compare under it)
    learning_rate: float = 5e-5  # of the encoder
    decoder_factor: float = 1.0  # rate of decoder and head relative to the encoder's
    schedule: str = "constant"  # or "cosine" over max_rounds
    warmup_steps: int = 0  # the rate rises linearly from 0 over so many steps
    clip_norm: float = 0.0  # global norm that gradients are clipped to, 0 = off
    ema_decay: float = 0.0  # exponential moving average of theta, used for evaluation; 0 = off


@dataclass(unsafe_hash=True)
class TrainConfig(Part):
    batch_size: int = 2  # images a step
    microbatches: int = 1  # parts that a batch is computed in, one after the other, for less memory (not on a CPU)
    crop_px: int = 0  # train on windows of this side of the prepared images; 0 = on whole images
    crop_lesion_share: float = 0.5  # share of the windows that are chosen to hold a lesion
    oversample: float = 0.0  # as grader.oversample, by pseudo-label
    init_from: str = ""  # a workdir, or a folder of checkpoints or exported weights, to start from; "" = none
    init_parts: str = "all"  # what is taken from there: "encoder", or "all" that has the same shape
    unit: str = "epoch"  # of theta_units and label_units: "epoch" or "step"
    theta_units: int = 1  # (A) of a round
    label_units: int = 1  # (B) of a round
    max_rounds: int = 100  # of Algorithm 1, at most
    max_minutes: float = 0.0  # stop after the round in which this time is over, 0 = no limit
    monitor: str = "loss"  # early stopping and best checkpoint: "loss" = L_S + beta L_C(pseudo-label), or "dice"
    patience_rounds: int = 20  # stop after so many rounds without a better score
    min_delta: float = 1e-4  # of the score, to count as better
    eval_every_rounds: int = 1  # validate, and save a checkpoint, after so many rounds
    log_every_steps: int = 10  # of a phase: figures go to log.jsonl and TensorBoard
    save_every_minutes: float = 10.0  # also within a round, of graders too; 0 = after a validation only
    on_nonfinite: str = "stop"  # a loss or gradient that is NaN or infinite, graders' too: "stop", or "skip" and count


@dataclass(unsafe_hash=True)
class ParallelConfig(Part):
    """Of the machine that runs; it changes no result but for rounding. See docs/parallel.md."""

    mode: str = "mesh"  # "mesh": jit over all devices; "pmap": each runs its part of a batch, in one process
    num_devices: int = 0  # of each process; 0 = all, in training as many as divide the batch
    shard_params: bool = False  # "mesh": kernels and what the optimiser keeps of them lie in parts on the devices
    coordinator: str = ""  # HOST:PORT of the first of several processes, the same for all; "" = one, or what SLURM says
    num_processes: int = 1  # each with this same command, but for process_id
    process_id: int = 0  # of this process, from 0


@dataclass(unsafe_hash=True)
class EvaluationConfig(Part):
    batch_size: int = 4  # images at once, in validation and prediction as well
    threshold: float = 0.5  # of lesion probabilities, in figures that need one
    original_size: bool = True  # also score at the original size against the original masks
    num_examples: int = 6  # images shown in the report


@dataclass(unsafe_hash=True)
class CheckpointConfig(Part):
    fallback: bool = False  # where a checkpoint is damaged, move it aside and go on from an earlier one


@dataclass(unsafe_hash=True)
class InferenceConfig(Part):
    """How a trained network is asked, by `evaluate`, `predict` and `export`."""

    mode: str = "whole"  # the whole prepared image at once, or "tiles": overlapping windows of it, for less memory
    tile_px: int = 512  # side of a window
    overlap: float = 0.5  # share of its side that a window has in common with the next one, at least
    tta: str = "none"  # average over views: "none", "flips" (4) or "dihedral" (8: flips and turns by 90 degrees)
    threshold: float = 0.0  # of `predict`'s masks; 0 = each lesion's operating point, as chosen on the validation images
    engine_dtype: str = "float32"  # of --engine=openvino: "float32", or "bfloat16" where the processor has it


@dataclass(unsafe_hash=True)
class Config(Part):
    """All choices of a run; in Python they are set as attributes."""

    name: str = "idrid"  # of the run, and of its folder
    workdir: str = ""  # "" = runs/NAME
    seed: int = 0  # of initial values, and of the order and augmentation of training images
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    grader: GraderConfig = field(default_factory=GraderConfig)
    pseudo: PseudoLabelConfig = field(default_factory=PseudoLabelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)


def has_stage_1(config: Config) -> bool:
    """Whether graders label the pixel-labelled images."""
    return config.data.grading != NO_SET and config.pseudo.source == "graders"


def frozen(config: Any) -> Any:
    """A copy that cannot be changed, nor any of its parts."""
    parts = {name: frozen(value) for name, value in vars(config).items() if isinstance(value, Part)}
    copy = dataclasses.replace(config, **parts)
    object.__setattr__(copy, "_is_frozen", True)
    return copy


def to_dict(config: Config) -> dict:
    """The config as nested plain dictionaries, as written to `config.json`."""
    return dataclasses.asdict(config)


def from_dict(values: dict, part: Any = Config) -> Any:
    """The config (or one part of it) of a `config.json`; lists become tuples.

    Raises:
        ValueError: If a field is unknown: the file is of another version.
    """
    known = {field.name: field for field in dataclasses.fields(part)}
    if unknown := values.keys() - known.keys():
        raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
    arguments = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = from_dict(value, known[name].default_factory)
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return part(**arguments)


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its dotted path, depth first."""
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
