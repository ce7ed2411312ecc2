"""The conventions under which lesions are scored, in the words of the report."""

SEGMENTATION_METRICS: tuple[tuple[str, str | None, str], ...] = (
    ("seg/foreground/dice", "baseline/channel_threshold/dice", "Lesion Dice, pooled over all valid pixels. "
     "Baseline: the best threshold on one colour channel, chosen on the training images, or on all where all are scored."),
    ("seg/foreground/iou", "baseline/channel_threshold/iou", "Lesion intersection over union, pooled; the same baseline."),
    ("seg/foreground/dice_per_image", None, "Mean of each image's lesion Dice; images without any lesion are left out."),
    ("seg/foreground/dice_at_operating_point", None, "Lesion Dice, pooled, of the masks that `predict` makes: thresholds "
     "and smallest components chosen on the validation images."),
    ("seg/foreground/precision", None, "Share of the predicted pixels that are lesion."),
    ("seg/foreground/recall", None, "Share of the lesion pixels that are predicted."),
    ("seg/foreground/ap", "seg/foreground/ap_all_background", "Average precision of the lesion probability over all pixels. "
     "Baseline: the share of lesion pixels, which any answer that is the same everywhere has."),
    ("seg/micro_bg/dice", "seg/micro_bg/dice_all_background", "One ratio over all pixels and both classes: pixel "
     "accuracy. Our reading of the paper's mDice. Baseline: answering background everywhere."),
    ("seg/micro_bg/iou", "seg/micro_bg/iou_all_background", "The same ratio for intersection over union."),
    ("seg/macro_bg/dice", "seg/macro_bg/dice_all_background", "Mean Dice of background and lesion; the same baseline."),
    ("seg/macro_bg/iou", "seg/macro_bg/iou_all_background", "Mean intersection over union of background and lesion."),
    ("seg/macro_bg/dice_soft", None, "Mean Dice with probabilities in place of the thresholded prediction."),
    ("seg/inflation", None, "Area of the lesions at the network's size relative to the original: reducing masks makes "
     "small lesions grow, so figures at the network's size are comparable with each other only."),
    *((f"seg/{lesion}/{name}", None, f"{name} of {lesion}.") for lesion in ("MA", "HE", "EX", "SE", "mean")
      for name in ("recall", "dice", "dice_at_operating_point", "iou", "ap", "aupr_11_exclusive", "inflation")),
)  # fmt: skip
"""Name in `metrics.json`, the name of its baseline, and what it is."""
