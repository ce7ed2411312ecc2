"""The search over beta and gamma, small, on synthetic images.

Purpose:   the same rows in a few minutes. gamma is only in L_C: the demo's L_S is Dice and cross-entropy.
Paper:     not comparable: the network is narrow and starts at random, the images are synthetic.
Launch:    python main.py compare --config=configs/tables/beta_demo.py
Expected:  results/beta_demo.json, and docs/compare.md.
Hardware:  2 CPU cores, 2 GiB.
"""

from configs.tables.beta import BETAS, GAMMAS
from configs.tables.rows import search, small
from pldmlt_jax.table_config import Table


def get_table() -> Table:
    return Table(
        name="beta_demo",
        title="beta and gamma on synthetic images",
        rows=search(small(), BETAS, GAMMAS),
        reference="beta0.8_gamma2",
    )
