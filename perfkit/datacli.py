"""``perfkit data …``: public data, how to get it, and what a folder of scans holds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="data",
    help="Data: get public sets, see what a folder holds and what is odd in it.",
    no_args_is_help=True,
)


@app.command()
def get(
    name: Annotated[
        str, typer.Argument(help="isles18, isles24 or unitobrain. Empty: list them.", show_default=False)
    ] = "",
    to: Annotated[str, typer.Option(help="Folder. Empty: data/<name>.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="The terms are accepted: do not ask.")] = False,
    api: Annotated[str, typer.Option(hidden=True)] = "",
):
    """Say where public data sets are to be had and on what terms; download an open one.

    Its terms and size are shown first, and you are asked. Files are checked by
    the md5 of the record, zips are unpacked, TERMS.txt is left beside them. The
    same command goes on with a download that broke.

    Try: perfkit data get isles18 --to data/isles18
    """
    from perfkit import downloads

    if not name:
        for source in downloads.SOURCES.values():
            for line in downloads.describe(source):
                typer.echo(line)
        return
    folder = downloads.get_dataset(
        name, to, agree=_yes if yes else _asked, api=api or downloads.ZENODO, say=typer.echo
    )
    typer.echo(f"See what it holds: perfkit data check {folder}")


def _yes(question):
    return True


def _asked(question):
    """Ask at the terminal; where nobody can answer, the answer is no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        raise ValueError(f"{question} Nobody answered, so nothing was downloaded. Give --yes.") from None


@app.command()
def check(
    folder: Annotated[str, typer.Argument(help="Folder of scans of any kind that perfkit reads.")],
    out: Annotated[str, typer.Option(help="CSV file, a row per scan. Empty: none.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Read headers only.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read the maps beside the scans and judge an automatic AIF.")
    ] = False,
):
    """Tell what a folder of scans holds, what is odd, what would be skipped, and why.

    Every scan is loaded once: values, frames, bolus, masks, head motion. Those
    of ISLES 2018 are compared with the index. The exit status is 1 where a scan
    would be skipped.

    Try: perfkit data check data/isles18 --out check.csv
    """
    from perfkit import paths
    from perfkit.datacheck import check_cohort, report_lines
    from perfkit.tables import save_table

    _a_file(out)
    if quick and deep:
        raise ValueError("--quick reads headers only and --deep more than usual: give one of them.")
    report = check_cohort(paths.resolve(folder), quick=quick, deep=deep, progress=not quick)
    for line in report_lines(report):
        typer.echo(line)
    if out:
        typer.echo(save_table(out, report.scans))
    raise typer.Exit(1 if len(report.skipped) else 0)


def _a_file(out):
    """Ask for a place for the table before the work, which may take an hour, and not after it."""
    if not out:
        return
    if Path(out).is_dir():
        raise IsADirectoryError(f"--out names a CSV file, and {out} is a folder. Give a file in it.")
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(out).parent):
            pass
    except OSError as error:
        raise type(error)(
            f"--out: {out} cannot be written ({error.strerror or error}). Give a file in a folder that can."
        ) from None


@app.command()
def index(
    folder: Annotated[
        str,
        typer.Argument(help="Your ISLES 2018 training set. Empty: print the agreement.", show_default=False),
    ] = "",
    out: Annotated[str, typer.Option(help="CSV file for the table. Empty: none.")] = "",
):
    """Print how OpenPerfusion and RAPID agree on ISLES 2018, or check a download.

    Without a folder: bias, limits of agreement, ICC, CCC, DEFUSE 3 and EXTEND κ
    and Dice of 94 scans and of their 63 patients. With one: scans that are
    missing, unknown, broken, of another shape or with another lesion; the exit
    status is then 1. Scans are matched by the number of their 4DPWI series.

    Try: perfkit data index data/isles18
    """
    from perfkit import paths
    from perfkit.islesindex import agreement_of_systems, check_download
    from perfkit.tables import save_table

    _a_file(out)
    table = check_download(paths.resolve(folder)) if folder else agreement_of_systems()
    for line in _of_download(table, folder) if folder else _of_systems(table):
        typer.echo(line)
    if out:
        typer.echo(save_table(out, table))
    raise typer.Exit(1 if folder and len(table) else 0)


def _of_systems(table):
    """Lay out the agreement, a block per quantity and unit."""
    yield "ISLES 2018 training set, OpenPerfusion − RAPID. In brackets 95 % limits: over scans a bootstrap of"
    yield "patients, over patients by formula (bootstrap for the mean difference of Dice)."
    for (quantity, unit), rows in table.groupby(["quantity", "unit"], sort=False):
        n, n_patients = rows["n"].iloc[0], rows["n_patients"].iloc[0]
        whose = f"{n} scans of {n_patients} patients" if unit == "scan" else f"{n} patients"
        yield f"\n{quantity} ({whose})"
        for row in rows.to_dict("records"):
            limits = f"({_number(row['low'])} to {_number(row['high'])})" if row["low"] == row["low"] else ""
            p = f"p = {row['p']:.3g}" if row["p"] == row["p"] else ""
            note = row["note"] if isinstance(row["note"], str) else ""
            words = f"  {row['statistic']:<28} {_number(row['value']):>9} {limits:<22} {p:<12} {note}"
            yield words.rstrip()


def _number(value):
    return f"{value:.3f}".replace("-", "−")


def _of_download(table, folder):
    if table.empty:
        yield f"{folder}: all scans of the index are there, with its shapes and lesion volumes."
        return
    yield f"{folder}: {len(table)} differences from the index."
    for row in table.to_dict("records"):
        number = f" ({row['smir_id_4dpwi']:.0f})" if isinstance(row["smir_id_4dpwi"], int | float) else ""
        sides = [f"{side} {row[side]}" for side in ("expected", "found") if row[side]]
        yield f"  {row['case']}{number}: {row['what']}" + (": " + ", ".join(sides) if sides else "")
