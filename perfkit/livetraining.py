"""A training as it runs: one figure that is redrawn in place, and scalars for TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from perfkit import paper
from perfkit.drawing import CONFIG, QUIET_COLOUR, panels

REDRAW = 1.0  # s between two redraws at least; our choice: faster flickers, and each costs some 50 ms
EARLIER = 8  # our choice: AIFs of earlier epochs that stay, faded
MOST_POINTS = 200  # of a line; our choice: more are not seen in a panel, and the notebook stays small
PLOTLY = "application/vnd.plotly.v1+json"
INK = "#111827"
# panel -> columns of the history: (name, label, colour)
PANELS = {
    "Loss": (("loss", "training", QUIET_COLOUR), ("val_loss", "unseen scans", INK)),
    "Dice": (("val_dice", "unseen scans", INK),),
    "ROC AUC": (("val_auc", "unseen scans", INK),),
}


class LiveTraining:
    """Show loss, Dice and AUC per epoch, and the AIF as it forms, in one display of a notebook.

    Parameters
    ----------
    dt : s, frame interval of the AIFs
    every : s between two redraws; what comes sooner is drawn with the next, or at the end
    show : called with a MIME bundle at the first drawing, returns an object with ``update(bundle)``; default:
        the running notebook's display, and nothing where there is none

    Notes
    -----
    Used as ``with LiveTraining() as live``, or handed to ``training.train_cohort``, which does that: the end
    of the block draws what is still owed. The executed notebook holds the last figure, once.
    """

    def __init__(
        self, dt: float = paper.FRAME_INTERVAL, *, every: float = REDRAW, show: Callable | None = None
    ):
        self.dt, self.every = dt, every
        self.rows: dict = {}  # (fold, epoch) -> row
        self.aifs: dict = {}  # (fold, epoch) -> (T,)
        self._show = show or _notebook_display()
        self._handle, self._drawn, self._owed = None, -np.inf, False

    def tell(self, row: dict) -> None:
        """Take note of an epoch: a row of the history, as ``FoldTraining.run`` makes it."""
        self.rows[row["fold"], row["epoch"]] = row
        self._owed = True

    def draw(self, row: dict, aif) -> None:
        """Take note of an epoch and of its AIF (T,), and redraw where it is time."""
        self.tell(row)
        fold = row["fold"]
        self.aifs = {key: curve for key, curve in self.aifs.items() if key[0] == fold}
        self.aifs[fold, row["epoch"]] = np.trim_zeros(np.asarray(aif, float), "b")  # padding after the scan
        if time.monotonic() - self._drawn >= self.every:
            self.redraw()

    def redraw(self) -> None:
        """Show all that is known, now."""
        self._owed = False
        if self._show is None or not self.rows:
            return
        # without the page of HTML that plotly adds for viewers that know no plotly: 5 MB in each redraw
        bundle = {
            PLOTLY: json.loads(self.figure().to_json()) | {"config": CONFIG},
            "text/plain": self.words(),
        }
        if self._handle is None:
            self._handle = self._show(bundle)
        else:
            self._handle.update(bundle)
        self._drawn = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._owed:
            self.redraw()

    def words(self) -> str:
        """Say the last epoch in a line."""
        row = list(self.rows.values())[-1]
        numbers = (f"{name} {row[name]:.3f}" for name in ("loss", "val_loss", "val_dice", "val_auc"))
        return f"Fold {row['fold']}, epoch {row['epoch']}: {', '.join(numbers)}"

    def figure(self):
        """Draw all that is known: a plotly figure, small enough to stay in a notebook."""
        titles = [*PANELS, "AIF of one scan (peak = 1)"]
        figure = panels(1, len(titles), subplot_titles=titles, horizontal_spacing=0.06)
        current = list(self.rows)[-1][0] if self.rows else None
        for column, lines in enumerate(PANELS.values(), start=1):
            for fold in dict.fromkeys(fold for fold, _ in self.rows):
                rows = [row for key, row in self.rows.items() if key[0] == fold]
                for name, label, colour in lines:
                    _add_line(figure, rows, name, label, colour, column, bold=fold == current)
        self._add_aifs(figure, len(titles))
        figure.update_xaxes(title_text="Epoch")
        figure.update_xaxes(title_text="Time (s)", col=len(titles))
        return figure.update_layout(height=340, legend={"y": 1.12})

    def _add_aifs(self, figure, column):
        keys, n = list(self.aifs), len(self.aifs)
        shown = np.linspace(0, n - 2, min(EARLIER, n - 1)).round().astype(int) if n > 1 else ()
        for i in [*shown, n - 1] if n else ():
            curve, last = self.aifs[keys[i]], i == n - 1
            opacity = 1.0 if last else 0.15 + 0.35 * i / n
            line = {"color": INK, "width": 3 if last else 1.2}
            y = (curve / (np.abs(curve).max(initial=0) or 1.0)).round(4)
            hover = f"epoch {keys[i][1]}<br>%{{x:.0f}} s: %{{y:.2f}}<extra></extra>"
            figure.add_scatter(
                x=np.arange(len(y)) * self.dt,
                y=y,
                mode="lines",
                line=line,
                opacity=opacity,
                name=f"epoch {keys[i][1]}",
                hovertemplate=hover,
                showlegend=False,
                row=1,
                col=column,
            )


def _add_line(figure, rows, name, label, colour, column, *, bold):
    """Draw a column of the history over the epochs of one fold, at most so many points."""
    kept = rows[:: -(-len(rows) // MOST_POINTS)]
    kept = kept if kept[-1] is rows[-1] else [*kept, rows[-1]]
    fold = rows[-1]["fold"]
    figure.add_scatter(
        x=[row["epoch"] for row in kept],
        y=[round(row[name], 4) for row in kept],
        mode="lines+markers" if len(kept) == 1 else "lines",
        line={"color": colour, "width": 2.5 if bold else 1},
        opacity=1.0 if bold else 0.35,
        name=label,
        legendgroup=label,
        showlegend=bold and column == 1,
        hovertemplate=f"fold {fold}, {label}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
        row=1,
        col=column,
    )


def _notebook_display():
    """Return what opens a display that can be updated, where a kernel runs; else None."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:  # a terminal would print line after line
        return None
    from IPython.display import display

    return lambda bundle: _Updated(display(bundle, raw=True, display_id=True))


class _Updated:
    """A display handle whose updates are MIME bundles."""

    def __init__(self, handle):
        self.handle = handle

    def update(self, bundle):
        self.handle.update(bundle, raw=True)


class Board:
    """Scalars of every fold for TensorBoard: ``tell`` writes a row of the history.

    Parameters
    ----------
    folder : the event files go to ``<folder>/fold-<number>``. A run that goes on tells its whole history, so
        those of an earlier start are replaced.
    """

    def __init__(self, folder):
        from tensorboard.summary import Writer

        self.folder, self._writer = Path(folder), Writer
        self._of_fold: dict = {}

    def tell(self, row: dict) -> None:
        """Write the numbers of an epoch; they are on disk when the call returns."""
        fold = row["fold"]
        if fold not in self._of_fold:
            here = self.folder / f"fold-{fold}"
            for old in here.glob("events.out.tfevents.*"):
                old.unlink()
            self._of_fold[fold] = self._writer(str(here))
        writer = self._of_fold[fold]
        for name, value in row.items():
            if name not in ("fold", "epoch") and np.isfinite(value):
                writer.add_scalar(name, float(value), row["epoch"])
        writer.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for writer in self._of_fold.values():
            writer.close()


def board(folder, *, say: Callable = print) -> Board | None:
    """Write the scalars of a training for TensorBoard, where it is installed.

    Parameters
    ----------
    folder : of the event files; ``tensorboard --logdir`` takes it
    say : called with a sentence where TensorBoard is missing

    Returns
    -------
    Board, or None without TensorBoard
    """
    try:
        return Board(folder)
    except ImportError:
        say(f"TensorBoard is not installed: {folder} gets no event files, and the history is in history.csv.")
        return None
