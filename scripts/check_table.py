"""Checks that repeated runs of a table reproduce results/: python scripts/check_table.py RESULTS TABLE_JSON

Compares every run that is in both files, metric by metric. The exit status is 1 if a metric differs by more than its
tolerance, or if no run is in both. Floating-point rounding differs between processors and training amplifies it; the
tolerances allow for that over some hundred steps, not for a difference between methods.
"""

import json
import sys
from pathlib import Path

TOLERANCES = {
    "seg/foreground/dice": 0.03,
    "seg/foreground/dice_original_size": 0.03,
    "seg/micro_bg/dice_original_size": 0.005,
    "baseline/channel_threshold/dice_original_size": 0.001,
}

recorded, repeated = (
    {
        (row["name"], cell["fold"], cell["seed"]): cell["metrics"]
        for row in json.loads(Path(path).read_text())["rows"]
        for cell in row["cells"]
        if cell["state"] == "complete"
    }
    for path in sys.argv[1:3]
)
compared = missed = 0
for run in sorted(recorded.keys() & repeated.keys()):
    for name, tolerance in TOLERANCES.items():
        if name in recorded[run]:
            difference = abs(repeated[run][name] - recorded[run][name])
            values = f"{repeated[run][name]:.4f}, recorded {recorded[run][name]:.4f}, tolerance {tolerance}"
            print(f"{run}: {name}: {values}{'' if difference <= tolerance else '   MISSED'}")
            compared, missed = compared + 1, missed + (difference > tolerance)
print(f"{compared} metrics compared, {missed} missed")
sys.exit(missed > 0 or compared == 0)
