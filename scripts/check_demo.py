"""Says whether a demo run has learnt what it should: python scripts/check_demo.py [WORKDIR]. Exit status 1 if not."""

import json
import sys
from pathlib import Path

metrics = json.loads((Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo") / "metrics.json").read_text())
BOUNDS = (
    ("lesion Dice", metrics["seg/foreground/dice"], 0.60),
    (
        "lesion Dice over the best threshold's",
        metrics["seg/foreground/dice"],
        metrics["baseline/channel_threshold/dice"] + 0.15,
    ),
    ("graded images", metrics["grade/n"], 200),
    ("grading accuracy over the majority's", metrics["grade/accuracy"], metrics["grade/majority"] + 0.15),
    ("quadratic weighted kappa", metrics["grade/kappa"], 0.40),
    ("pseudo-label accuracy after refinement", metrics["pseudo/accuracy_after"], metrics["pseudo/accuracy_before"]),
)

missed = False
for name, found, least in BOUNDS:
    print(f"{name}: {found:.3f}, at least {least:.3f}{'' if found >= least else '   MISSED'}")
    missed |= found < least
sys.exit(missed)
