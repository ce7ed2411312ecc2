"""`report`: one self-contained HTML page with the results of a run."""

from pldmlt_jax.cli.flags import Arguments
from pldmlt_jax.errors import ConfigError
from pldmlt_jax.io.progress import progress
from pldmlt_jax.reporting.run_report import write_report
from pldmlt_jax.workflow.context import Context


def main(arguments: Arguments) -> None:
    """Writes the report of `--workdir`.

    Raises:
        ConfigError: There is no such folder.
    """
    if not arguments.workdir.is_dir():
        raise ConfigError("--workdir", f"no folder {arguments.workdir}", "the workdir of a run", "check the path")
    report(Context(arguments))


def report(context: Context) -> None:
    """Writes `report.html`: the pipeline's stage."""
    with progress("report", images=0) as task:
        task.advance(str(write_report(context.workdir)))
