"""What changes the grades trained on pseudo-labels, in addition to `table3_laptop.py`, for two CPU cores.

Purpose:   beta, gamma and the label update on real images. Each row differs from `base` in one thing, except that
           `paper` and `trusted` differ from `rate_10`, and `paper_full` from `paper`.
Paper:     the sentence below Eq. 3: beta 0.8 and gamma 2 "gave the best results", without numbers. Here at 256 px
           instead of 1024, with recommended losses and rates: L_S is Dice and cross-entropy, so gamma is only in L_C.
Launch:    python main.py compare --config=configs/tables/grades_laptop.py --config.data.root=DIR --config.model.weights=FILE
           DIR holds IDRiD/; FILE is torchvision's VGG16. The grader also starts from it. For a shorter run:
           --config.data.size_px=192 --config.model.frozen_stages=3
Expected:  see docs/results.md.
Hardware:  2 CPU cores, 6 GiB.
"""

from configs.tables.rows import varied
from configs.tables.table1_laptop import small_idrid
from pldmlt_jax.table_config import Row, Table


def get_table() -> Table:
    base = small_idrid()
    # Ten times the label network's rate, so that the effect of its loss shows in so few steps.
    faster = varied(base, meta={"learning_rate": 10 * base.meta.learning_rate})
    paper, trusted = (varied(faster, meta={"loss": loss}) for loss in ("paper", "trusted"))
    return Table(
        name="grades_laptop",
        title="Grading loss and label update, IDRiD",
        rows=(
            Row("base", base, "L_S + 0.8 L_C, label update"),
            Row("untaught", varied(base, meta={"gradient": "none"}), "label network not trained: initial soft labels"),
            Row("beta_025", varied(base, loss={"beta": 0.25}), "beta 0.25"),
            Row("beta_2", varied(base, loss={"beta": 2.0}), "beta 2"),
            Row("gamma_0", varied(base, loss={"gamma": 0.0}), "gamma 0, which also makes L_C larger"),
            Row("rate_10", faster, "label network's rate 1e-2, meta loss `anchored`"),
            Row("paper", paper, "at that rate, meta loss `paper`"),
            Row("paper_full", varied(paper, meta={"hierarchy": "full"}), "at that rate, `paper`, all grades allowed"),
            Row("trusted", trusted, "at that rate, meta loss `trusted`: true grades of other images"),
        ),
        reference="base",
    )
