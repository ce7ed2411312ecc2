"""Definitions of the metrics in `metrics.json`, as shown in reports, comparison tables and model cards.

Each entry is the name of a metric, the name of its baseline (None: it has none) and a one-line definition.
"""

Definition = tuple[str, str | None, str]

SEGMENTATION_METRICS: tuple[Definition, ...] = (
    ("seg/foreground/dice", "baseline/channel_threshold/dice", "Lesion Dice, pooled over all valid pixels. Baseline: the "
     "best threshold on one colour channel, chosen on the training images (or on the scored images if all are scored)."),
    ("seg/foreground/iou", "baseline/channel_threshold/iou", "Lesion intersection over union, pooled; same baseline."),
    ("seg/foreground/dice_per_image", None, "Mean of each image's lesion Dice; images without lesions are left out."),
    ("seg/foreground/dice_at_operating_point", None, "Pooled lesion Dice of the masks that `predict` writes, with threshold "
     "and minimum component size chosen on the validation images."),
    ("seg/foreground/precision", None, "Share of the predicted pixels that are lesion."),
    ("seg/foreground/recall", None, "Share of the lesion pixels that are predicted."),
    ("seg/foreground/ap", "seg/foreground/ap_all_background", "Average precision of the lesion probability over all pixels. "
     "Baseline: the share of lesion pixels, which any constant prediction scores."),
    ("seg/micro_bg/dice", "seg/micro_bg/dice_all_background", "One ratio over all pixels and both classes, which equals "
     "pixel accuracy. Our reading of the paper's mDice. Baseline: predicting background everywhere."),
    ("seg/micro_bg/iou", "seg/micro_bg/iou_all_background", "The same ratio for intersection over union."),
    ("seg/macro_bg/dice", "seg/macro_bg/dice_all_background", "Mean Dice of background and lesion; same baseline."),
    ("seg/macro_bg/iou", "seg/macro_bg/iou_all_background", "Mean intersection over union of background and lesion."),
    ("seg/macro_bg/dice_soft", None, "Mean Dice of background and lesion, with probabilities instead of binary masks."),
    ("seg/inflation", None, "Lesion area at the network's size relative to the original. Downscaling masks enlarges small "
     "lesions, so metrics at the network's size can only be compared with each other."),
    *((f"seg/{lesion}/{name}", None, f"{name} of {lesion}.") for lesion in ("MA", "HE", "EX", "SE", "mean")
      for name in ("recall", "dice", "dice_at_operating_point", "iou", "ap", "aupr_11_exclusive", "inflation")),
)  # fmt: skip

GRADING_METRICS: tuple[Definition, ...] = (
    ("grade/accuracy", "grade/majority", "Share of correct grades. Baseline: always predicting the most frequent training "
     "grade."),
    ("grade/accuracy_low", None, "Lower end of the 95 % Wilson interval of a run's accuracy."),
    ("grade/accuracy_high", None, "Upper end of that interval."),
    ("grade/kappa", None, "Quadratic weighted kappa; any constant prediction scores 0."),
    ("grade/macro_f1", None, "Mean F1 over the grades."),
    ("grade/auc_ovr", None, "Mean area under the ROC curve, one grade against the rest; chance scores 0.5."),
    ("grade/ece", None, "Expected calibration error."),
    ("pseudo/accuracy_before", "pseudo/majority", "Accuracy of the pseudo-labels before refinement, where the true grade is "
     "known."),
    ("pseudo/accuracy_after", "pseudo/majority", "The same after refinement."),
)  # fmt: skip

LABEL_METRICS: tuple[Definition, ...] = (
    ("labels/repaired", "labels/repaired_by_hierarchy", "Share of the wrong labels that the update corrects, where the true "
     "grade is known. Baseline: what psi alone does."),
    ("labels/spoilt", "labels/spoilt_by_hierarchy", "Share of the right labels that the update makes wrong; same baseline."),
    ("labels/accuracy_after", "labels/accuracy_before", "Share of right labels after the update. Baseline: before it."),
    ("train/grad_norm/seg_encoder", None, "Norm of the gradient of L_S on the encoder, median over the second half of "
     "training."),
    ("train/grad_norm/grade_encoder", "train/grad_norm/grade_encoder_fixed", "The same for beta L_C. Baseline: with the "
     "labels before the update, for the same network and batch."),
    ("train/grad_cosine_encoder", "train/grad_cosine_encoder_fixed", "Cosine between the two gradients; same baseline."),
)  # fmt: skip
"""Metrics of the label network: its effect on the labels and on the balance between the gradients of the two tasks."""
