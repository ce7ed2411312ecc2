"""`compare`: all runs of a table, or one."""

from pldmlt_jax.workflow.comparison.compare import compare
from pldmlt_jax.workflow.comparison.runs import execute_run
from pldmlt_jax.workflow.options import RunOptions, lock_output_folder


def main(options: RunOptions) -> int:
    """Returns the exit status, which is 1 if a run has failed."""
    if options.one_run:
        execute_run(options)
        return 0
    with lock_output_folder(options):
        return compare(options)
