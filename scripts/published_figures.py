"""Checks the paper's printed numbers against each other: `python -m scripts.published_figures` prints the tables of
docs/reproduction.md, from the rows of the paper only.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from configs.tables.rows import DDR, IDRID_DIARETDB1, ablation
from pldmlt_jax.config import Config
from pldmlt_jax.table_config import Row

TOLERANCE = 2.0
"""A row fits if it is off by at most this multiple of the rounding error; two rows of Table 2 are off by 1.3 times."""

LARGEST_SET = 2000
"""Largest test set tried for an accuracy."""


def iou_of_dice(dice_percent: float) -> float:
    """Returns the IoU in % that follows from a Dice if both are ratios of the same counts: D / (2 - D)."""
    return 100.0 * dice_percent / (200.0 - dice_percent)


def rounding(dice_percent: float, digits: int) -> float:
    """Returns how far a printed IoU may be from `iou_of_dice` if both were rounded to this number of digits."""
    half = 0.5 * 10.0**-digits
    return half + half * 20000.0 / (200.0 - dice_percent) ** 2


def set_sizes(accuracy: str, largest: int = LARGEST_SET) -> set[int]:
    """Returns every n up to `largest` for which some k / n rounds to this accuracy (in %, with its printed digits)."""
    value, digits = float(accuracy), max(-int(Decimal(accuracy).as_tuple().exponent), 0)
    return {
        n
        for n in range(1, largest + 1)
        if any(round(100 * k / n, digits) == value for k in (int(value * n / 100), int(value * n / 100) + 1))
    }


def dice_lines(rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Makes a Markdown line for each segmentation row: printed and expected IoU, difference, and whether it fits."""
    for name, printed in rows.items():
        if "mIOU" not in printed:
            continue
        dice, iou = printed["mDice"], printed["mIOU"]
        digits = 3 if round(dice, 2) != dice or round(iou, 2) != iou else 2
        gap = iou - iou_of_dice(dice)
        fits = "yes" if abs(gap) <= TOLERANCE * rounding(dice, digits) else "no, below" if gap < 0 else "no, above"
        yield f"| {name} | {dice} | {iou} | {iou_of_dice(dice):.3f} | {gap:+.3f} | {fits} |"


def ablation_rows(rows: Sequence[Row]) -> dict[str, Mapping[str, float]]:
    """Returns the printed numbers of Table 3 by row."""
    return {row.name: row.published for row in rows if row.published}


def main() -> None:
    """Prints the tables."""
    print("| row | mDice | mIOU | D/(2-D) | difference | fits |\n| --- | --- | --- | --- | --- | --- |")
    for table, rows in (("1", IDRID_DIARETDB1), ("2", DDR), ("3", ablation_rows(ablation(Config())))):
        for line in dice_lines(rows):
            print(line.replace("| ", f"| Table {table}, ", 1))
    print()
    for table, rows in (("1", IDRID_DIARETDB1), ("2", DDR)):
        accuracies = {name: f"{printed['Accuracy']:.2f}" for name, printed in rows.items() if "Accuracy" in printed}
        sizes = {name: set_sizes(accuracy) for name, accuracy in accuracies.items()}
        for name, accuracy in accuracies.items():
            print(
                f"Table {table}, {name}: {accuracy} % is k / n for n = {', '.join(map(str, sorted(sizes[name])[:6]))}, ..."
            )
        common = sorted(set.intersection(*sizes.values()))
        print(f"Table {table}: one n up to {LARGEST_SET} for all rows: {', '.join(map(str, common)) or 'none'}\n")


if __name__ == "__main__":
    main()
