"""Says whether runs of a table, made again, give what results/ has: python scripts/check_table.py RESULTS TABLE_JSON.

Compares each run that both have, figure by figure. Exit status 1 where one differs by more than the tolerance, or none is
in both. Floating-point rounding differs from one processor to the next, and training makes more of it: the tolerance is
what a run of some hundred steps may differ by, not what a method may.
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

kept, again = (
    {
        (row["name"], cell["fold"], cell["seed"]): cell["metrics"]
        for row in json.loads(Path(path).read_text())["rows"]
        for cell in row["cells"]
        if cell["state"] == "complete"
    }
    for path in sys.argv[1:3]
)
compared = missed = 0
for run in sorted(kept.keys() & again.keys()):
    for name, most in TOLERANCES.items():
        if name in kept[run]:
            difference = abs(again[run][name] - kept[run][name])
            shown = f"{again[run][name]:.4f}, kept {kept[run][name]:.4f}, tolerance {most}"
            print(f"{run}: {name}: {shown}{'' if difference <= most else '   MISSED'}")
            compared, missed = compared + 1, missed + (difference > most)
print(f"{compared} figures compared, {missed} missed")
sys.exit(missed > 0 or compared == 0)
