"""``perfkit aif …``: picks in and out, and two raters side by side."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="aif",
    help="Picked AIFs: bring published ones in, hand yours on, compare two raters; or the automatic methods."
    "\n\nPicks lie in data/aif/<cohort>/<rater>.csv, one line each; notebook 02 makes them. "
    "`perfkit aif list --cohort DIR` says whose there are.",
    no_args_is_help=True,
)

Cohort = Annotated[str, typer.Option(help="Folder of the scans the picks belong to.", show_default=False)]
Rater = Annotated[str, typer.Option(help="Name of the rater, and of the file.", show_default=False)]
Base = Annotated[
    int, typer.Option(help="What the indices count from: 0 or 1.", min=0, max=1, show_default=False)
]


@app.command("import")
def import_(
    table: Annotated[Path, typer.Argument(help="CSV file; comma, semicolon or tab.")],
    cohort: Cohort,
    rater: Rater,
    base: Base,
    axes: Annotated[
        str, typer.Option(help="Order of the columns' axes; yxz for row, column, slice.")
    ] = "xyz",
    check_curves: Annotated[
        bool, typer.Option(help="Load every scan and look whether contrast arrives at the voxels.")
    ] = True,
    on_conflict: Annotated[
        str, typer.Option(help="Where the rater picked otherwise: refuse all, keep that, or replace it.")
    ] = "refuse",
):
    """Take over a published table of AIF and VOF voxels as picks of a rater.

    Two layouts are read: imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz and
    case,set,aif_x,aif_y,aif_z,vof_x,vof_y,vof_z. Say what the indices count
    from; the scans are asked whether that can be, and a wrong answer is refused
    with what would fit. Nothing is written until all is checked; importing the
    same table again adds nothing.

    Try: perfkit aif import mh.csv --cohort data/isles18 --rater mh --base 0
    """
    from perfkit import paths
    from perfkit.datasets import open_cohort
    from perfkit.published import import_table

    options = {"index_base": base, "axes": axes, "check_curves": check_curves, "on_conflict": on_conflict}
    scans = open_cohort(paths.resolve(cohort))
    found, lines = _heard(import_table, table, scans, rater, **options, progress=_watched())
    _tell(lines)
    for line in found.sentences():
        typer.echo(line)


@app.command()
def export(
    cohort: Cohort,
    rater: Rater,
    out: Annotated[Path, typer.Option(help="CSV file to write.", show_default=False)],
    base: Base,
    layout: Annotated[str, typer.Option(help="imageid (ISLES 2018 alone) or case.")] = "imageid",
):
    """Write a rater's latest picks as a table in a published layout.

    A pick of several voxels takes several lines. `perfkit aif import` reads the
    table back; say there what you said here for --base.

    Try: perfkit aif export --cohort data/isles18 --rater mh --out mh.csv --base 0
    """
    from perfkit import annotations, paths
    from perfkit.datasets import open_cohort
    from perfkit.published import export_table
    from perfkit.raters import rater_files

    scans = open_cohort(paths.resolve(cohort))
    files = rater_files(scans)
    if rater not in files:
        raise ValueError(
            f"{rater!r} has no picks for {scans.folder}. Raters: {', '.join(files) or 'none'}. "
            "Pick in notebook 02, or import a table."
        )
    picks, lines = _heard(annotations.latest, files[rater])
    _tell(lines)
    strangers = [case for case in picks if case not in scans.ids]
    _tell([f"{case} is no scan of {scans.folder} and was left out." for case in strangers])
    known = {case: pick for case, pick in picks.items() if case not in strangers}
    written = export_table(out, known, scans, layout=layout, index_base=base)
    typer.echo(f"{len(known)} picks of {rater} in {written}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Rater, or automatic method such as straka.")],
    b: Annotated[str, typer.Argument(help="The other one; differences are A − B.")],
    cohort: Cohort,
    out: Annotated[Path, typer.Option(help="Folder for raters.csv, .json and .html.", show_default=False)],
):
    """Compare two raters: where they pick, their curves, and the cores that follow.

    Distance in mm, curve correlation, differences of peak, TTP, FWHM and first
    moment, and what one and the same pipeline makes of both: CBF, core volume,
    Dice. Scans that only one of them has are listed.

    Try: perfkit aif compare mh straka --cohort data/isles18 --out mh-straka
    """
    from perfkit import paths
    from perfkit.datasets import open_cohort
    from perfkit.raters import compare_raters

    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out names a folder, and {out} is a file. Give another path.")
    found, lines = _heard(compare_raters, open_cohort(paths.resolve(cohort)), a, b, progress=_watched())
    _tell(lines)
    for line in found.sentences():
        typer.echo(line)
    typer.echo(f"file://{found.save(out)[-1].resolve()}")


@app.command()
def methods(
    cohort: Annotated[
        str, typer.Option(help="Folder of scans. Empty: the embedded phantom cohort.", show_default=False)
    ] = "",
    out: Annotated[str, typer.Option(help="Folder for methods.csv and scans.csv. Empty: none.")] = "",
    n: Annotated[int, typer.Option(help="Only the first n scans; 0: all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the embedded phantom cohort.", min=0)] = 0,
    rater: Annotated[
        str, typer.Option(help="Whose picks stand beside the methods. Empty: the simulated rater's, if any.")
    ] = "",
):
    """Compare the automatic AIF methods: their curves with the truth, and the cores that follow.

    A row per method, beside a rater, the brain's mean curve (the control) and,
    on phantoms, the true AIF: median (quartiles) of the curve's correlation with
    the true AIF and of ΔTTP, ΔFWHM and area ratio; share refused and flagged;
    AUC and Dice of the core. Scans that cannot be read are named and left out.

    Try: perfkit aif methods --n 5
    """
    from perfkit import paths
    from perfkit.datasets import open_cohort
    from perfkit.methods import as_markdown, compare_methods, method_table
    from perfkit.study import demo_cohort
    from perfkit.tables import save_table

    if out and Path(out).exists() and not Path(out).is_dir():
        raise NotADirectoryError(f"--out names a folder, and {out} is a file. Give another path.")
    folder = paths.resolve(cohort) if cohort else demo_cohort(seed=seed, say=typer.echo)
    scans = open_cohort(folder)
    scans = scans.select(min(n, len(scans))) if n else scans
    scores = compare_methods(
        scans, rater=rater, progress=_watched(), say=lambda words: typer.echo(words, err=True)
    )
    if scores.empty:
        raise ValueError(f"None of the {len(scans)} scans of {folder} can be read.")
    table = method_table(scores)
    typer.echo(as_markdown(table))
    if out:
        save_table(Path(out) / "scans.csv", scores)
        path = save_table(Path(out) / "methods.csv", table.rename_axis("method").reset_index())
        typer.echo(f"{path}")


@app.command("list")
def list_(cohort: Cohort):
    """List the raters of a cohort: how many cases they picked, when last, unreadable lines.

    Files in data/aif come before those delivered with the cohort.

    Try: perfkit aif list --cohort data/isles18
    """
    from perfkit import annotations, paths
    from perfkit.datasets import open_cohort

    scans = open_cohort(paths.resolve(cohort))
    files = annotations.raters(scans.folder, paths.data_folder() / "aif")
    if not files:
        typer.echo(f"Nobody has picked in {scans.folder} yet. Open notebook 02, or import a table.")
    for file in files:
        if not file.is_file():
            _tell([f"{file} is no file of picks but a folder: rename it."])
            continue
        try:
            picks, lines = _heard(annotations.read, file)
            latest, _ = _heard(annotations.latest, file)
        except ValueError as error:
            _tell([str(error)])
            continue
        picked = sum(case in latest for case in scans.ids)
        strangers = len(set(latest) - set(scans.ids))
        last = max((pick.time for pick in picks), key=annotations.instant, default="never")
        words = f"{file.stem}: {picked} of {len(scans)} cases, last {last}, in {file}"
        typer.echo(words + f"; {strangers} picks of other scans" * bool(strangers))
        _tell(lines)


def _heard(work, *arguments, **options):
    """Do it; return what came of it and, once each, what was said about lines that cannot be read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = work(*arguments, **options)
    return found, list(dict.fromkeys(str(warning.message) for warning in caught))


def _tell(lines):
    for line in lines:
        typer.echo(line, err=True)


def _watched() -> bool:
    return sys.stderr.isatty()  # in a log, a bar is a thousand lines
