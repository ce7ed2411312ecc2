"""Three rows of `label_study.py`, one seed: no update, the paper's J and `trusted`, where 40 % of the grades are wrong.

Purpose:   to run a part of the study in a few minutes.
Launch:    python main.py compare --config=configs/tables/label_study_demo.py
Expected:  see docs/label_update.md, whose table has these rows.
Hardware:  2 CPU cores, a few minutes.
"""

from dataclasses import replace

from configs.tables import label_study
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    table = label_study.get_table()
    rows = tuple(table.row(name) for name in ("none_40", "paper_full_40", "trusted_full_40"))
    return replace(table, name="label_study_demo", rows=rows, seeds=(0,))
