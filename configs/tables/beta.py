"""The search over beta and gamma that the paper mentions without its results.

Purpose:   how much the two numbers matter.
Paper:     the sentence below Eq. 3: beta 0.8 and gamma 2 "gave the best results", without numbers.
Launch:    python main.py compare --config=configs/tables/beta.py --config.data.root=DIR
           DIR holds IDRiD/ and DiaRetDB1/.
Expected:  not yet reproduced. gamma is that of L_C and of L_S, because the literal L_S is also focal.
Hardware:  one GPU with 24 GB, for a week: 60 trainings at 1024x1024.
"""

from configs.tables import table1
from configs.tables.rows import search, with_imagenet
from pldmlt_jax.table_config import Table

BETAS = (0.25, 0.5, 0.8, 0.95, 1.0, 2.0)
GAMMAS = (0.0, 2.0)


def get_table() -> Table:
    return Table(
        name="beta",
        title="beta and gamma, IDRiD and DiaRetDB1",
        rows=search(with_imagenet(table1.pool()), BETAS, GAMMAS),
        folds=(0, 1, 2, 3, 4),
        reference="beta0.8_gamma2",
    )
