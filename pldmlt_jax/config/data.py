"""Config of the data: which images, how they are prepared, split and augmented."""

import dataclasses
from dataclasses import dataclass

from pldmlt_jax.config.section import ConfigSection, field

NO_SET = "none"
"""Value of `data.grading` without a graded set."""

SET_SEPARATOR = "+"
"""Joins the names of data sets that are pooled."""

MAX_SEED = 2**31 - 1

SPLITS = ("official", "folds", "all_folds")


@dataclass(unsafe_hash=True)
class AugmentConfig(ConfigSection):
    """Random changes to training images. Image and masks share one geometry. The paper gives no ranges."""

    flip: bool = field(True, "Flip horizontally and vertically, each with probability 1/2.")
    rotation_deg: float = field(
        180.0, "Rotate by an angle that is uniform in [-rotation_deg, rotation_deg].", min=0, max=180, unit="degrees"
    )
    min_scale: float = field(
        0.8,
        "Side of the random crop relative to the image: uniform in [min_scale, 1], rescaled to full size.",
        min=0.1,
        max=1,
    )
    photometric: float = field(0.0, "Strength of brightness, contrast and saturation jitter; 0 = off.", min=0, max=1)
    blur_px: float = field(
        0.0, "Standard deviation of a Gaussian blur: uniform in [0, blur_px]; 0 = off.", min=0, max=20, unit="px"
    )
    elastic: float = field(
        0.0, "Standard deviation of an elastic deformation, as a share of the image's side; 0 = off.", min=0, max=0.05
    )


@dataclass(unsafe_hash=True)
class SyntheticConfig(ConfigSection):
    """The embedded synthetic set. It is written once as files in IDRiD's layout, then read like any other set."""

    height_px: int = field(384, "Height of the images; the width is 1.5 times the height.", min=64, max=4096, unit="px")
    num_segmentation_train: int = field(54, "Pixel-labelled training images.", min=2, max=10**6)
    num_segmentation_test: int = field(27, "Pixel-labelled test images.", min=1, max=10**6)
    num_grading_train: int = field(413, "Graded training images.", min=5, max=10**6)
    num_grading_test: int = field(103, "Graded test images.", min=1, max=10**6)
    corrupt_share: float = field(
        0.0, "Share of training grades that are replaced by a wrong one, in both parts of the set.", min=0, max=1
    )
    seed: int = field(0, "Seed of the images.", min=0, max=MAX_SEED)


@dataclass(unsafe_hash=True)
class DataConfig(ConfigSection):
    """Data sets, preparation, splits and loading."""

    segmentation: str = field(
        "idrid_s",
        'Pixel-labelled set, or several that are pooled: "idrid_s+diaretdb1".',
        choices="pldmlt_jax.data.datasets.registry:SEGMENTATION_SETS",
        separator=SET_SEPARATOR,
    )
    grading: str = field(
        "idrid_d",
        'Graded set, or several that are pooled; "none" = no graded set.',
        choices="pldmlt_jax.data.datasets.registry:GRADING_SETS",
        separator=SET_SEPARATOR,
        or_none=True,
    )
    root: str = field("data", "Folder that holds one folder per set: IDRiD/, ...")
    idrid_root: str = field("", 'The IDRiD folder; "" = data.root/IDRiD.')
    diaretdb1_root: str = field("", 'The DiaRetDB1 folder; "" = data.root/DiaRetDB1.')
    folder_root: str = field("", 'Folder of your own images; "" = data.root/folder.')
    ddr_root: str = field("", 'The DDR folder; "" = data.root/DDR-dataset.')
    on_bad_file: str = field(
        "stop",
        '"stop" with the list of all bad files, or "skip": count and list them, and continue.',
        choices=("stop", "skip"),
    )
    cache_dir: str = field("data_cache", "Folder of the prepared sets and of the synthetic images.")
    size_px: int = field(1024, "Side of the square image that the multi-task network sees.", min=32, max=8192, unit="px")
    fov_crop: bool = field(True, "Crop to the field of view first.", prepares="images")
    resize: str = field(
        "pad",
        '"pad": keep the aspect ratio and pad with zeros; "stretch": literal reading of 1024x1024.',
        choices=("pad", "stretch"),
        prepares="images",
    )
    enhance: str = field(
        "none",
        "Contrast enhancement of the network's input.",
        choices="pldmlt_jax.data.preprocessing.contrast:ENHANCEMENTS",
        prepares="images",
    )
    mask_reduction: str = field(
        "max",
        'Downscaling of training masks: "max" loses no lesion, "area" keeps areas, "area_keep" does both.',
        choices="pldmlt_jax.data.preprocessing.masks:REDUCTIONS",
        prepares="images",
    )
    fusion: str = field(
        "close",
        "Morphological operation on the union of the four lesion masks.",
        choices=("close", "dilate", "none"),
        prepares="images",
    )
    fusion_px: int = field(
        3,
        "Diameter of the elliptical structuring element of fusion, at the original size.",
        min=1,
        max=99,
        unit="px",
        prepares="images",
    )
    agreement: float = field(
        0.75,
        "DiaRetDB1: smallest share of the experts' votes that makes a pixel a lesion; the default is the set's own.",
        min=0,
        max=1,
        prepares="markings",
    )
    agreement_weighted: bool = field(
        True, "DiaRetDB1: weigh votes by the experts' confidence; the default is the set's own.", prepares="markings"
    )
    image_format: str = field(
        "png",
        'Storage of prepared images: "png" (lossless) or "jpeg" (quality 95, faster to read).',
        choices=("png", "jpeg"),
        prepares="images",
    )
    split: str = field(
        "official",
        'Pixel-labelled set: its "official" split, "folds" of its official training part, or "all_folds" of all its images.',
        choices=SPLITS,
    )
    grading_split: str = field("official", "The same for the graded set.", choices=SPLITS)
    num_folds: int = field(5, "Number of folds of split and grading_split.", min=2, max=100)
    fold: int = field(0, 'The held-out fold, counted from 0 and reported as "test".', min=0, max=99)
    val_share: float = field(
        0.2, "Share of the training images kept for early stopping; the nearest 1/k is used.", min=0.01, max=0.5
    )
    folds_file: str = field(
        "", 'Pixel-labelled set: CSV file of folds, in the format that prepare writes; "" = this project\'s folds.'
    )
    split_seed: int = field(0, "Seed of the folds and of the share for early stopping.", min=0, max=MAX_SEED)
    leakage: str = field(
        "exclude",
        '"exclude": graders never see an image of the pixel-labelled set; "as_paper": they do.',
        choices=("exclude", "as_paper"),
    )
    leakage_distance: int = field(
        88, "Two images show the same eye if at most this many of the 576 bits of their hashes differ.", min=0, max=575
    )
    num_threads: int = field(4, "Threads that decode and augment.", min=1, max=256)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    synthetic: SyntheticConfig = dataclasses.field(default_factory=SyntheticConfig)
