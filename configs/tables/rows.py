"""Rows for the tables in this folder: the paper's networks, graders, ablation and search, on any base config.

The published metrics are those of the paper's Tables 1 to 3, in %, as printed.
"""

from collections.abc import Mapping
from dataclasses import replace

from configs import demo
from pldmlt_jax.config import NO_SET, Config
from pldmlt_jax.table_config import Row

IMAGENET = {
    "vgg16": "vgg16-397923af.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "nasnet_mobile": "NASNet-mobile-no-top.h5",
    "densenet201": "densenet201-c1103571.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
}
"""Published weights. Each is downloaded once; `compare` names those that are not available."""

IDRID_DIARETDB1 = {
    "unet": {"mDice": 91.859, "mIOU": 86.216},
    "linknet": {"mDice": 95.145, "mIOU": 91.950},
    "deeplabv3plus": {"mDice": 95.732, "mIOU": 91.813},
    "fpn": {"mDice": 95.897, "mIOU": 87.101},
    "mtunet": {"mDice": 96.181, "mIOU": 93.562, "Accuracy": 60.75},
    "ours": {"mDice": 96.949, "mIOU": 94.164, "Accuracy": 57.69},
    "nasnet_mobile": {"Accuracy": 50.74},
    "densenet201": {"Accuracy": 48.98},
    "resnext50_32x4d": {"Accuracy": 53.01},
    "resnext101_32x8d": {"Accuracy": 57.83},
}
"""Table 1, on IDRiD and DiaRetDB1."""

DDR = {
    "unet": {"mDice": 95.612, "mIOU": 91.591},
    "linknet": {"mDice": 97.346, "mIOU": 94.829},
    "deeplabv3plus": {"mDice": 96.244, "mIOU": 92.760},
    "fpn": {"mDice": 98.258, "mIOU": 96.577},
    "mtunet": {"mDice": 98.961, "mIOU": 97.942, "Accuracy": 84.59},
    "ours": {"mDice": 98.897, "mIOU": 97.820, "Accuracy": 81.98},
    "nasnet_mobile": {"Accuracy": 76.59},
    "densenet201": {"Accuracy": 74.25},
    "resnext50_32x4d": {"Accuracy": 81.39},
    "resnext101_32x8d": {"Accuracy": 82.12},
}
"""Table 2, on DDR."""

GRADERS = {
    "nasnet_mobile": "NASNet-Mobile",
    "densenet201": "DenseNet-201",
    "resnext50_32x4d": "ResNeXt-50 32x4d",
    "resnext101_32x8d": "ResNeXt-101 32x8d",
}

Published = Mapping[str, Mapping[str, float]]


def varied(config: Config, **parts: dict) -> Config:
    """Returns `config` with other values in the given fields of the given sections."""
    return replace(config, **{name: replace(getattr(config, name), **fields) for name, fields in parts.items()})


def lesions_only(config: Config) -> Config:
    """Returns `config` with L_S only, which needs no grades and no stage 1."""
    return replace(
        config,
        data=replace(config.data, grading=NO_SET),
        pseudo=replace(config.pseudo, source="graders"),  # "none" needs grades from another source
        loss=replace(config.loss, grading=False, graded_weight=0.0),
        meta=replace(config.meta, enabled=False),
    )


def other_network(config: Config, encoder: str, decoder: str) -> Config:
    """Returns `config` with another segmentation network, its reference's normalisation, and no options of VGG and U-Net."""
    model = replace(
        config.model, encoder=encoder, decoder=decoder, encoder_norm=False, full_res_skip=False,
        norm_momentum=0.9, norm_epsilon=1e-5,
    )  # fmt: skip
    return lesions_only(replace(config, model=model))


def semi_supervised(config: Config) -> Config:
    """Returns MTUnet as far as its paper describes it.

    It is trained on the grades of the graded images and on the network's own masks of these, with weights [1, 1].
    """
    return replace(
        config,
        meta=replace(config.meta, enabled=False),
        pseudo=replace(config.pseudo, source="none"),
        loss=replace(config.loss, beta=0.0, graded_weight=1.0, self_training=1.0),
    )


def with_imagenet(config: Config) -> Config:
    """Returns `config` with every network from ImageNet, as in the paper.

    A grader that starts from the multi-task network's file still does.
    """
    named = zip(config.grader.architectures, config.grader.weights, strict=True)
    weights = tuple(file if file == "encoder" else IMAGENET[name] for name, file in named)
    return replace(
        config,
        model=replace(config.model, weights=IMAGENET[config.model.encoder]),
        grader=replace(config.grader, weights=weights),
    )


def unchanged(config: Config) -> Config:
    return config


def networks(base: Config, published: Published, *, imagenet: bool = True) -> tuple[Row, ...]:
    """Returns the segmentation networks of Tables 1 and 2.

    All have the loss and rates of `base`, because the paper gives none for the other networks.
    """
    start = with_imagenet if imagenet else unchanged
    rows = {
        "unet": (lesions_only(base), "U-Net (VGG16), L_S only"),
        "linknet": (other_network(base, "resnet18", "linknet"), "LinkNet (ResNet-18), L_S only"),
        "deeplabv3plus": (other_network(base, "resnet50", "deeplabv3plus"), "DeepLabv3+ (ResNet-50), L_S only"),
        "fpn": (other_network(base, "resnet50", "fpn"), "FPN (ResNet-50), L_S only"),
        "mtunet": (semi_supervised(base), "after MTUnet (VGG16): semi-supervised, from `unet`; an approximation"),
        "ours": (base, "PLDMLT (VGG16)"),
    }
    starts = {"mtunet": "unet"}
    return tuple(
        Row(name, start(config), what, starts_from=starts.get(name, ""), published=published[name])
        for name, (config, what) in rows.items()
    )


def graders(base: Config, published: Published, *, imagenet: bool = True) -> tuple[Row, ...]:
    """Returns the graders of Tables 1 and 2, each on its own."""
    start = with_imagenet if imagenet else unchanged
    rows = []
    for name, what in GRADERS.items():
        config = replace(base, grader=replace(base.grader, architectures=(name,), weights=("",)))
        rows.append(Row(name, start(config), what, part="graders", published=published[name]))
    return tuple(rows)


def grading(base: Config, published: Published, *, imagenet: bool = True) -> tuple[Row, ...]:
    """Returns the lower half of Table 1: the graders, and the two multi-task networks on the same held-out images."""
    rows = {row.name: row for row in networks(base, published, imagenet=imagenet)}
    of_grades = [replace(rows[name], published={"Accuracy": published[name]["Accuracy"]}) for name in ("mtunet", "ours")]
    start = replace(rows["unet"], what="U-Net (VGG16), L_S only, from which `mtunet` starts", published={})
    return (*graders(base, published, imagenet=imagenet), start, *of_grades)


def ablation(base: Config) -> tuple[Row, ...]:
    """Returns Table 3 and the row that it lacks: beta 0.8 without the label update."""

    def row(beta: float, *, update: bool) -> Config:
        return replace(base, loss=replace(base.loss, beta=beta), meta=replace(base.meta, enabled=update))

    return (
        Row("ls", lesions_only(base), "L_S", published={"mDice": 94.96, "mIOU": 91.02}),
        Row("beta1_fixed", row(1.0, update=False), "L_S + L_C", published={"mDice": 94.64, "mIOU": 89.83}),
        Row("beta1_update", row(1.0, update=True), "L_S + L_C, label update", published={"mDice": 95.05, "mIOU": 90.48}),
        Row("beta08_fixed", row(0.8, update=False), "L_S + 0.8 L_C: not in the paper"),
        Row(
            "beta08_update", row(0.8, update=True), "L_S + 0.8 L_C, label update",
            published={"mDice": 96.94, "mIOU": 94.06},
        ),
    )  # fmt: skip


def search(base: Config, betas: tuple[float, ...], gammas: tuple[float, ...]) -> tuple[Row, ...]:
    """Returns every beta with every gamma. Gamma is that of L_C and, if L_S is focal, also of L_S."""
    return tuple(
        Row(
            f"beta{beta:g}_gamma{gamma:g}",
            replace(base, loss=replace(base.loss, beta=beta, gamma=gamma)),
            f"beta {beta:g}, gamma {gamma:g}",
        )
        for gamma in gammas
        for beta in betas
    )


def small() -> Config:
    """Returns the demo with smaller images and fewer steps: a run takes about half a minute on two CPU cores."""
    config = demo.get_config()
    return replace(
        config,
        data=replace(config.data, size_px=96),
        model=replace(
            config.model, encoder_base_filters=16, encoder_max_blocks=1, decoder_base_filters=64, atrous_rates=(1, 2, 3)
        ),
        grader=replace(config.grader, size_px=96, nasnet_momentum=0.9),
        train=replace(config.train, max_rounds=12, eval_every_rounds=4),
    )
