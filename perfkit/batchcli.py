"""``perfkit batch``: a notebook over many cases."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperCommand

app = typer.Typer()
PAIRS = "perfkit.batch.parameters"


class WithParameters(TyperCommand):
    """A command that takes ``-p name value`` any number of times; typer itself knows no pairs."""

    def parse_args(self, ctx, args):
        """Take the pairs out before typer sees what is left, and refuses what it does not know."""
        rest, pairs, words = [], {}, iter(args)
        for word in words:
            if word == "--":
                rest += [word, *words]
            elif word in ("-p", "--parameter"):
                name, value = next(words, None), next(words, None)
                if value is None or value in ("-p", "--parameter") or value.startswith("--") or "=" in name:
                    came = " ".join(filter(None, (name, value)))
                    raise ValueError(
                        f"{word} takes a name and a value, as in -p lambda_rel 0.2: {came!r} came."
                    )
                if name in pairs:
                    raise ValueError(f"A parameter is given once: -p {name} came twice.")
                pairs[name] = value
            else:
                rest.append(word)
        ctx.meta[PAIRS] = pairs
        return super().parse_args(ctx, rest)


@app.command(cls=WithParameters, no_args_is_help=True)
def batch(
    context: typer.Context,
    notebook: Annotated[str, typer.Argument(help="Path, or name of one in notebooks/.")],
    out: Annotated[str, typer.Option(help="Folder of the results, one folder per case.")],
    cohort: Annotated[str, typer.Option(help="Folder of scans.", show_default=False)] = "",
    sets: Annotated[
        str, typer.Option(help="CSV table: a row per run, a column per parameter, `id` names the run.")
    ] = "",
    case: Annotated[list[str] | None, typer.Option(help="Only this case; may be repeated.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Cases at a time. Default: one per core, as memory allows.", min=1)
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds a case may take.")] = None,
    memory_limit: Annotated[
        float | None, typer.Option(help="GiB a case may take. Default: its share of the machine.")
    ] = None,
    retries: Annotated[
        int, typer.Option(help="Further attempts when a process or a disk fails; never for a wrong input.")
    ] = 2,
    resume: Annotated[
        bool, typer.Option(help="Leave what is there and was made of the same inputs in the same way.")
    ] = True,
    scheduler: Annotated[str, typer.Option(help="Running Dask scheduler, such as tcp://host:8786.")] = "",
    cluster: Annotated[str, typer.Option(help="Start workers through slurm, pbs or sge.")] = "",
    jobs: Annotated[int, typer.Option(help="Jobs to ask the cluster for.", min=1)] = 1,
    gpu: Annotated[bool, typer.Option(help="Let cases use this machine's GPUs, one each.")] = True,
):
    """Run a notebook for every scan of a cohort, a process each.

    -p NAME VALUE, any number of times, sets a parameter of the notebook. Each
    case's folder holds the executed notebook, what it wrote, and done.json;
    run.json is the record of the run. A case that fails is one line in
    failures.csv and leaves its notebook as failed.ipynb; the exit status is
    then 1. The same command goes on where it stopped.

    Try: perfkit batch 01_explore_a_case --cohort mine --out look -p seed 1
    """
    from perfkit.batch import run_batch

    summary = run_batch(
        notebook,
        cohort,
        out,
        parameters=context.meta[PAIRS],
        sets=sets,
        cases=case or None,
        scheduler=scheduler,
        cluster=cluster,
        jobs=jobs,
        workers=workers,
        time_limit=time_limit,
        memory_limit=memory_limit,
        retries=retries,
        resume=resume,
        gpu=gpu,
        say=lambda words: typer.echo(words, err=True),
    )
    raise typer.Exit(1 if summary.failures or summary.left else 0)
