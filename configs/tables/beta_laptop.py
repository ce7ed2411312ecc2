"""beta and gamma of the grading loss on real IDRiD images, small enough for two CPU cores.

Purpose:   whether the two numbers move anything on real photographs, without a GPU.
Paper:     the sentence below Eq. 3: beta 0.8 and gamma 2 "gave the best results", without figures. Here at 256 px in
           place of 1024, with recommended losses and rates: L_S is Dice and cross-entropy, so that gamma is L_C's alone.
Launch:    python main.py compare --config=configs/tables/beta_laptop.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16. The grader starts from it too. For less time:
           --config.data.size_px=192 --config.model.frozen_stages=3
Expected:  see docs/results.md.
Hardware:  2 CPU cores, 6 GiB.
"""

from configs.tables.rows import search
from configs.tables.table1_laptop import small_idrid
from pldmlt_jax.table import Table


def get_table() -> Table:
    base = small_idrid()
    return Table(
        name="beta_laptop",
        title="beta and gamma on IDRiD",
        rows=(*search(base, (0.25, 0.8, 2.0), (2.0,)), *search(base, (0.8,), (0.0,))),
        reference="beta0.8_gamma2",
    )
