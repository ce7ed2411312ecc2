"""PLDMLT: lesion segmentation and diabetic retinopathy grading in one network.

    python main.py                                                     the demo
    python main.py --config=configs/idrid.py [--config.FIELD=VALUE]    the whole method, stage by stage
    python main.py VERB --config=...                                   one stage of it

See `python main.py --help` for the verbs and flags.
"""

import sys

from pldmlt_jax.errors import explain_missing_package

if __name__ == "__main__":
    try:
        from pldmlt_jax.cli.app import run
    except ModuleNotFoundError as error:
        sys.exit(explain_missing_package(error))
    sys.exit(run(sys.argv))
