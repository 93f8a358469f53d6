"""The command line: ``perfkit study`` and the steps it is made of."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from perfkit import __version__, aifcli, batchcli, datacli

app = typer.Typer(
    name="perfkit",
    help="Stroke CT perfusion: AIF, differentiable deconvolution, honest statistics. Not for clinical use."
    "\n\nStart with `perfkit study`: it runs the whole paper on simulated scans and leaves a page to read. "
    "For scans of your own, `perfkit maps FOLDER`; to work by hand, `perfkit lab`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(aifcli.app)
app.add_typer(datacli.app)
app.add_typer(batchcli.app)

PRESETS = ("tiny", "quick", "full")
SIZES = ("tiny", "small", "full")
MATRICES = ("circulant", "volterra")
MAP_MATRICES = (*MATRICES, "truncated")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# what Keras would have to be imported for
LEARNED_ARMS, LOSSES, LEARNED = (
    ("cnn", "pool"),
    ("paper", "ranking", "physical"),
    ("threshold", "slope", "lambda_rel"),
)
INTERRUPTED = 130  # what typer makes of Ctrl-C, before we could see it

Cohort = Annotated[
    str,
    typer.Option(
        help="Folder of scans with core masks: an ISLES 2018 tree, or NIfTI series with <series>_core beside "
        "each. Empty: the embedded phantom.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.", min=0)]
Size = Annotated[
    str,
    typer.Option(help="tiny (48², for tests), small (128², the default study) or full (256², ISLES-like)."),
]
Preset = Annotated[
    str,
    typer.Option(help="Length of the training: tiny, quick (minutes) or full (two and a half times quick)."),
]
Folds = Annotated[
    int, typer.Option(help="Parts of the cross-validation; scans of one patient stay together.", min=2)
]
Matrix = Annotated[str, typer.Option(help="circulant (blind to delay) or volterra (as the paper prints it).")]
Lambda = Annotated[float, typer.Option(help="Tikhonov strength relative to the largest singular value.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False):
    if version:
        typer.echo(f"perfkit {__version__}")
        raise typer.Exit


@app.command()
def study(
    cohort: Cohort = "",
    out: Annotated[str, typer.Option(help="Folder of the run. Empty: data/runs/study.")] = "",
    n: Annotated[int, typer.Option(help="Scans of the phantom cohort.", min=2)] = 40,
    size: Size = "small",
    preset: Preset = "quick",
    folds: Folds = 5,
    seed: Seed = 0,
):
    """Run the paper end to end: cohort, notebooks, Table 1, figures, index.html.

    Without --cohort it makes the embedded phantom cohort first. What is in the
    run's folder afterwards: index.html to read, the executed notebooks,
    table1.csv, scores.csv and figures. An interrupted study goes on where it
    stopped: finished scans and training epochs are kept.

    Try: perfkit study --n 6 --size tiny --preset tiny --folds 2 --out look
    """
    from perfkit.study import run_study

    _known("preset", preset, PRESETS)
    _known("size", size, SIZES)
    _folder("out", out)
    page = run_study(out, cohort, n=n, size=size, preset=preset, folds=folds, seed=seed, say=typer.echo)
    typer.echo(f"file://{page}")


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where the cohort goes.")],
    n: Annotated[int, typer.Option(help="Scans.", min=1)] = 40,
    size: Size = "small",
    seed: Seed = 0,
):
    """Write a phantom cohort in the ISLES 2018 layout, with the truth beside it.

    TRAINING/case_N holds what a scanner and a rater would give, truth/case_N
    what only a simulation knows: AIF, CBF, CBV, MTT, delay and the true core.
    Finished scans are kept, so an interrupted call goes on.

    Try: perfkit phantom data/cohorts/mine --n 4
    """
    from perfkit.phantom import write_cohort

    typer.echo(write_cohort(folder, n, seed, size=size))


@app.command()
def maps(
    source: Annotated[Path, typer.Argument(help="Folder of scans, or one NIfTI series.")],
    out: Annotated[Path, typer.Option(help="Where the maps go, a folder per scan.")] = Path("maps"),
    case: Annotated[str, typer.Option(help="Only this scan of the folder.")] = "",
    voxel: Annotated[
        str, typer.Option(help="AIF voxels 'x y z; x y z', from 0. Empty: Straka's rule finds one.")
    ] = "",
    matrix: Annotated[
        str,
        typer.Option(
            help="circulant (blind to delay), volterra (as the paper prints it) or truncated (as "
            "circulant, and claims nothing of the time after the scan)."
        ),
    ] = "circulant",
    lambda_rel: Lambda = 0.3,
    estimator: Annotated[
        str, typer.Option(help="tikhonov, or calibrated: its bias undone, with a map of the delay.")
    ] = "tikhonov",
):
    """Compute CBF, CBV, MTT, Tmax, TTP, rCBF, core and penumbra as NIfTI images.

    Each image has a JSON sidecar that says its unit and how it was made;
    <scan>_aif.json holds the AIF it rests on. A broken scan is reported and the
    others go on; the exit status is then 1. No training is needed.

    Try: perfkit maps data/cohorts/mine --case case_1 --voxel "24 36 1; 24 37 1"
    """
    from perfkit.single import map_scans

    _known("matrix", matrix, MAP_MATRICES)
    _known("estimator", estimator, ("tikhonov", "calibrated"))
    _folder("out", out)
    options = {"case": case, "voxel": voxel, "matrix": matrix, "lambda_rel": lambda_rel}
    options["estimator"] = estimator
    raise typer.Exit(map_scans(source, out, **options, say=typer.echo, warn=_complain))


@app.command()
def pick(
    cohort: Annotated[
        str, typer.Argument(help="Folder of scans. Empty: the embedded phantom.", show_default=False)
    ] = "",
    rater: Annotated[str, typer.Option(help="Whose picks they are. Empty: asked for in the page.")] = "",
    case: Annotated[str, typer.Option(help="First scan. Empty: the first without a pick.")] = "",
    port: Annotated[int, typer.Option(help="On this machine only.", min=1, max=65535)] = 8866,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
):
    """Pick AIFs by hand in the browser, without any code.

    The picker of notebook 02 as a page of its own: a slice beside the curves,
    suggestions of the automatic methods, scan after scan. Every pick is on disk
    at once, in data/aif/<cohort>/<rater>.csv. Ctrl-C ends it.

    Try: perfkit pick data/cohorts/mine --rater mh
    """
    from perfkit.pickapp import serve

    _check_port(port)
    raise typer.Exit(serve(cohort, rater, case=case, port=port, browser=browser, say=typer.echo))


@app.command()
def train(
    cohort: Cohort = "",
    out: Annotated[str, typer.Option(help="Folder of the run. Empty: data/runs/training.")] = "",
    preset: Preset = "quick",
    folds: Folds = 5,
    epochs: Annotated[int, typer.Option(help="Instead of the preset's; 0: the preset's.", min=0)] = 0,
    matrix: Matrix = "circulant",
    seed: Seed = 0,
    arm: Annotated[
        str, typer.Option(help="cnn: the paper's regression; pool: the weighted mean of measured curves.")
    ] = "cnn",
    loss: Annotated[
        str, typer.Option(help="paper: soft Dice; ranking, physical: with more terms. Empty: ranking.")
    ] = "",
    learn: Annotated[
        list[str] | None,
        typer.Option(help="Train this too: threshold, slope or lambda_rel; may be repeated."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Scans of one shape in a step.", min=1)] = 1,
    precision: Annotated[
        str, typer.Option(help="Of the CNN's convolutions: float32, mixed_bfloat16 or mixed_float16 (GPU).")
    ] = "float32",
    tmax: Annotated[bool, typer.Option("--tmax", help="Core has Tmax above 6 s too.")] = False,
    fold: Annotated[int, typer.Option(help="Only this fold, from 0; -1: all.", min=-1)] = -1,
    board: Annotated[str, typer.Option(help="Folder for TensorBoard, where it is installed.")] = "",
):
    """Train an AIF network by cross-validation, from core masks alone.

    Leaves aifs.csv (every scan's AIF by the fold that never saw its patient),
    history.csv and the state of each fold, from which an interrupted training
    goes on. `perfkit predict` uses it on other scans; `perfkit study` compares
    a CNN trained with the paper's loss with the experts.

    Try: perfkit train --cohort data/cohorts/mine --arm pool --preset tiny
    """
    from perfkit import paths
    from perfkit.datasets import open_cohort
    from perfkit.study import demo_cohort

    _known("preset", preset, PRESETS)
    _known("matrix", matrix, MATRICES)
    _known("arm", arm, LEARNED_ARMS)
    _known("loss", loss, ("", *LOSSES))
    _known("precision", precision, PRECISIONS)
    for name in learn or ():
        _known("learn", name, LEARNED)
    _folder("out", out)
    _folder("board", board)
    if fold >= folds:
        raise ValueError(f"--fold counts from 0 to {folds - 1}: {fold} came. Or give more --folds.")
    folder = paths.resolve(cohort) if cohort else demo_cohort(say=typer.echo)
    opened = open_cohort(folder)
    opened.require_core("Training")
    opened.folds(folds, seed)  # what is wrong with them is said before TensorFlow starts
    from perfkit.training import train_cohort

    out = paths.resolve(out or "../data/runs/training")
    options = {"head": arm, "loss": loss, "learn": tuple(learn or ()), "matrix": matrix, "seed": seed}
    options |= {
        "batch_size": batch_size,
        "precision": precision,
        "tmax_factor": tmax,
        "only": None if fold < 0 else fold,
        "board": paths.resolve(board) if board else None,
    }
    result = train_cohort(folder, out, preset=preset, folds=folds, epochs=epochs, **options)
    last = result.history.groupby("fold").last()
    typer.echo(
        f"{len(result.aifs)} AIFs in {out / 'aifs.csv'}; validation Dice {last['val_dice'].mean():.3f}"
    )


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="Folder of a training, as perfkit train leaves it.")],
    cohort: Annotated[str, typer.Option(help="Folder of scans that it has not seen.")],
    out: Annotated[str, typer.Option(help="Table to write.")] = "aifs.csv",
):
    """Propose the AIFs of scans that a training has never seen.

    The mean of what the folds propose goes into a table, case, frame and value,
    which notebooks 04 and 05 take as learned AIFs.

    Try: perfkit predict data/runs/training --cohort data/cohorts/fresh --out fresh.csv
    """
    from perfkit import paths
    from perfkit.datasets import open_cohort

    target = Path(out).absolute()
    if target.is_dir():
        raise ValueError(
            f"--out names the table to write, and {target} is a folder. Try {target / 'aifs.csv'}"
        )
    opened = open_cohort(paths.resolve(cohort))
    from perfkit.preprocessing import prepare_cohort
    from perfkit.tables import save_aifs
    from perfkit.training import load_folds, predict_cohort

    load_folds(paths.resolve(run))  # what is wrong with it is said before the scans are prepared
    found = prepare_cohort(opened)
    for case, reason in found.failures.items():
        typer.echo(f"left out: {case}: {reason}", err=True)
    aifs = predict_cohort(paths.resolve(run), found.scans)
    save_aifs(target, aifs)
    typer.echo(f"{len(aifs)} AIFs in {target}")
    if found.failures:
        raise typer.Exit(1)


@app.command()
def paper():
    """List every item of the paper with the function that realises it.

    Read the equations beside the code: the place is file:line in the checkout.
    """
    from perfkit.paper import ITEMS, realisations

    width = max(map(len, ITEMS))
    root = Path(__file__).parent.parent
    for claim in realisations():
        where = f"{claim.path.relative_to(root)}:{claim.line}"
        typer.echo(
            f"{claim.item:{width}}  {where:34} {claim.function}\n"
            f"{'':{width}}  {ITEMS.get(claim.item, 'unknown item')}"
        )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, such as data/runs/study.")],
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also figures for print; needs Chromium.")
    ] = False,
):
    """Write index.html anew from the scores and figures of a finished run."""
    from perfkit.study import assemble_report

    page = assemble_report(folder, pictures=("png", "svg") if pictures else ())
    typer.echo(f"file://{page.resolve()}")


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="all, maps, pipeline, train, start, aif; study, departures, accuracy, conformal."
        ),
    ] = "all",
    repeats: Annotated[int, typer.Option(help="Repetitions; the median counts.", min=1)] = 5,
):
    """Measure speed at 256×256×8×60, as ratios to the bare matrix product in the same run.

    maps: all voxels to maps; pipeline: from a file to the core, step by step;
    train: one step, its data and the wait for them; start: import and opening 94
    scans; aif: the automatic methods; study: notebook 04 and its report over 94
    scans of 256×256 (takes minutes). Needs a quiet machine. The others measure no
    time. departures: what each departure from the paper does; accuracy: how
    true each estimator's maps are; conformal: how often intervals for volumes
    hold (1,600 phantom patients).

    Try: perfkit bench maps --repeats 3
    """
    from perfkit.bench import run

    run(what, repeats, say=typer.echo)


@app.command()
def doctor():
    """Say what is wrong with this environment, and what would help."""
    from perfkit.doctor import main as diagnose

    raise typer.Exit(diagnose())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context):
    """Run the tests (without the slow ones); what follows goes to pytest."""
    from perfkit.bootstrap import run_tests

    raise typer.Exit(run_tests(context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context):
    """Open the notebooks in JupyterLab; what follows goes to jupyter lab."""
    import subprocess

    from perfkit.paths import repository

    command = [sys.executable, "-m", "jupyter", "lab", str(repository() / "notebooks"), *context.args]
    raise typer.Exit(subprocess.call(command))


def _known(name, value, choices):
    if value not in choices:
        raise ValueError(f"--{name} must be one of {', '.join(choices)}: {value!r} came.")


def _folder(name, path):
    if path and Path(path).exists() and not Path(path).is_dir():
        raise NotADirectoryError(f"--{name} names a folder, and {path} is a file. Give another path.")


def _check_port(port: int) -> None:
    """Ask for the port before the server does: voila would move on to another without a word."""
    with socket.socket() as one:
        if sys.platform != "win32":  # there it would share a port that is taken
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(
                f"The page needs a free port, and {port} cannot be taken ({error.strerror}). "
                "Is the picker open already? Else give another --port, such as 8867."
            ) from None


def _complain(words):
    typer.echo(words, err=True)


def main():
    """Run the command line; what a user can mend is one line on stderr and exit status 1."""
    try:
        app(prog_name="perfkit")
    except (ValueError, OSError, RuntimeError) as error:
        _complain(f"perfkit: {error}")
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _complain("\nperfkit: stopped. What was finished is kept; the same command goes on from there.")
        raise
