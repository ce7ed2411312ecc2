"""`report`: one self-contained HTML page with the results of a run."""

from pldmlt_jax.errors import ConfigError
from pldmlt_jax.io.progress import show_progress
from pldmlt_jax.reporting.run_report import write_report
from pldmlt_jax.workflow.context import Context
from pldmlt_jax.workflow.options import RunOptions


def main(options: RunOptions) -> None:
    """Writes the report of `--workdir`.

    Raises:
        ConfigError: There is no such folder.
    """
    if not options.workdir.is_dir():
        raise ConfigError("--workdir", f"no folder {options.workdir}", "the workdir of a run", "check the path")
    report(Context(options))


def report(context: Context) -> None:
    """Runs the stage `report`, which writes `report.html`."""
    with show_progress("report", images=0) as task:
        task.advance(str(write_report(context.workdir)))
