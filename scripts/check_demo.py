"""Checks that a demo run reached the expected metrics: python scripts/check_demo.py [WORKDIR]

The exit status is 1 if it did not.
"""

import json
import sys
from pathlib import Path

metrics = json.loads((Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo") / "metrics.json").read_text())
BOUNDS = (
    ("lesion Dice", metrics["seg/foreground/dice"], 0.60),
    (
        "lesion Dice compared with the best threshold",
        metrics["seg/foreground/dice"],
        metrics["baseline/channel_threshold/dice"] + 0.15,
    ),
    ("graded images", metrics["grade/n"], 200),
    ("grading accuracy compared with the majority grade", metrics["grade/accuracy"], metrics["grade/majority"] + 0.15),
    ("quadratic weighted kappa", metrics["grade/kappa"], 0.40),
    ("pseudo-label accuracy after refinement", metrics["pseudo/accuracy_after"], metrics["pseudo/accuracy_before"]),
)

missed = False
for name, value, minimum in BOUNDS:
    print(f"{name}: {value:.3f}, at least {minimum:.3f}{'' if value >= minimum else '   MISSED'}")
    missed |= value < minimum
sys.exit(missed)
