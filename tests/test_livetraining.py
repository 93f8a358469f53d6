"""The view of a running training: one display, redrawn in place, small; and TensorBoard's event files."""

import json
import sys

import nbformat
import numpy as np
import pytest

from perfkit import livetraining
from perfkit.livetraining import PLOTLY, LiveTraining


class Screen:
    """A notebook's display that keeps what it is shown."""

    def __init__(self):
        self.opened, self.shown = 0, []

    def __call__(self, bundle):
        self.opened += 1
        self.update(bundle)
        return self

    def update(self, bundle):
        json.dumps(bundle, allow_nan=False)  # as the messages of a kernel are
        self.shown.append(bundle)


def row(epoch, fold=0):
    return {
        "fold": fold,
        "epoch": epoch,
        "loss": 1 / epoch,
        "val_loss": 2 / epoch,
        "val_dice": epoch / 100,
        "val_auc": 0.5 + epoch / 1000,
    }


def aif(epoch):
    return np.concatenate([np.eye(40)[epoch % 40] * epoch, np.zeros(24)])


def lines(figure, x_axis):
    return [trace for trace in figure.data if trace.xaxis == x_axis]


def test_all_epochs_go_to_one_display():
    screen = Screen()
    live = LiveTraining(every=0, show=screen)
    for epoch in (1, 2, 3):
        live.draw(row(epoch), aif(epoch))
    assert screen.opened == 1 and len(screen.shown) == 3
    assert screen.shown[-1]["text/plain"].startswith("Fold 0, epoch 3: loss 0.333, val_loss 0.667")


def test_what_comes_too_soon_is_drawn_at_the_end_and_once():
    screen = Screen()
    with LiveTraining(every=np.inf, show=screen) as live:
        for epoch in range(1, 9):
            live.draw(row(epoch), aif(epoch))
        assert len(screen.shown) == 1
    assert screen.opened == 1 and len(screen.shown) == 2
    assert "epoch 8" in screen.shown[-1]["text/plain"]
    with LiveTraining(every=0, show=screen) as live:
        live.draw(row(1), aif(1))
    assert len(screen.shown) == 3  # nothing was owed


def test_a_training_that_breaks_leaves_its_last_epoch():
    screen = Screen()
    with pytest.raises(KeyboardInterrupt), LiveTraining(every=np.inf, show=screen) as live:
        for epoch in (1, 2):
            live.draw(row(epoch), aif(epoch))
        raise KeyboardInterrupt
    assert "epoch 2" in screen.shown[-1]["text/plain"]


def test_epochs_of_an_earlier_start_are_told_and_drawn_without_aif():
    screen = Screen()
    with LiveTraining(show=screen) as live:
        for epoch in (1, 2):
            live.tell(row(epoch))
    assert len(screen.shown) == 1 and not lines(live.figure(), "x4")
    with LiveTraining(show=screen):
        pass
    assert len(screen.shown) == 1  # nothing to show opens no display


def test_the_figure_holds_the_numbers_of_each_fold():
    live = LiveTraining(show=Screen())
    for fold in (0, 1):
        for epoch in (1, 2, 4):
            live.draw(row(epoch, fold), aif(epoch))
    figure = live.figure()
    loss = [line for line in lines(figure, "x") if line.name == "training"]
    assert [line.y for line in loss] == [(1, 0.5, 0.25)] * 2 and loss[0].x == (1, 2, 4)
    assert [line.line.width > 2 for line in loss] == [False, True]  # the fold that trains is bold
    assert [line.y for line in lines(figure, "x2")] == [(0.01, 0.02, 0.04)] * 2
    assert [line.y for line in lines(figure, "x3")] == [(0.501, 0.502, 0.504)] * 2
    titles = [axis.title.text for axis in figure.select_xaxes()]
    assert titles == ["Epoch"] * 3 + ["Time (s)"]


def test_the_latest_aif_is_bold_and_some_earlier_ones_are_fainter_the_older():
    live = LiveTraining(dt=2.0, show=Screen())
    live.draw(row(30, fold=0), aif(30))
    for epoch in range(1, 31):
        live.draw(row(epoch, fold=1), aif(epoch))
    *earlier, last = lines(live.figure(), "x4")
    assert len(earlier) == livetraining.EARLIER and earlier[0].name == "epoch 1"
    assert last.name == "epoch 30" and last.opacity == 1 > earlier[-1].opacity
    assert np.all(np.diff([line.opacity for line in earlier]) > 0)
    assert last.y.max() == 1 and last.x[last.y.argmax()] == 60  # frame 30, 2 s each
    assert len(last.x) == 31  # without the padding after the end


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_first_epochs_draw_each_aif_once(n):
    live = LiveTraining(show=Screen())
    for epoch in range(1, n + 1):
        live.draw(row(epoch), aif(epoch))
    assert [line.name for line in lines(live.figure(), "x4")] == [f"epoch {e}" for e in range(1, n + 1)]


def test_a_long_training_stays_small_and_keeps_its_last_epoch():
    screen = Screen()
    with LiveTraining(every=np.inf, show=screen) as live:
        for fold in range(5):
            for epoch in range(1, 1001):
                live.draw(row(epoch, fold), np.random.default_rng(epoch).normal(size=64))
    assert len(json.dumps(screen.shown[-1])) < 200_000
    assert all(line.x[-1] == 1000 for line in lines(live.figure(), "x"))


def test_numbers_that_are_missing_and_an_aif_of_zeros_are_no_obstacle():
    screen = Screen()
    with LiveTraining(show=screen) as live:
        live.draw(row(1) | {"val_auc": float("nan")}, np.zeros(64))
    assert screen.shown


def test_without_a_notebook_it_is_silent(capfd):
    with LiveTraining(every=0) as live:
        live.draw(row(1), aif(1))
    assert capfd.readouterr() == ("", "")
    assert len(live.figure().data) == 5  # two of the loss, Dice, AUC, one AIF


def test_a_notebook_run_by_papermill_keeps_the_last_figure_once(tmp_path):
    import papermill

    cells = [
        "from perfkit.livetraining import LiveTraining",
        """with LiveTraining(every=0) as live:
    for epoch in range(1, 6):
        numbers = {"loss": 1 / epoch, "val_loss": 1.0, "val_dice": 0.1, "val_auc": 0.7}
        live.draw({"fold": 0, "epoch": epoch, **numbers}, [0.0, 1.0, epoch, 0.0])""",
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    v4 = nbformat.v4
    cells = [v4.new_code_cell(code) for code in cells]
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    options = {"progress_bar": False, "extra_arguments": ["--log-level=ERROR"]}
    papermill.execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", **options)
    outputs = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[1].outputs
    (shown,) = [out for out in outputs if "data" in out]
    assert set(shown.data) == {PLOTLY, "text/plain"} and "epoch 5" in shown.data["text/plain"]
    assert shown.data[PLOTLY]["data"][-1]["name"] == "epoch 5"
    assert shown.data[PLOTLY]["config"]["showSendToCloud"] is False  # images of patients stay here
    assert (tmp_path / "out.ipynb").stat().st_size < 200_000


def scalars(folder):
    """{tag: [(step, value)]} of all event files below, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, pytest.approx(e.tensor_proto.float_val[0], rel=1e-6)) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }


def test_tensorboard_reads_what_was_told(tmp_path):
    with livetraining.board(tmp_path) as board:
        for fold in (0, 3):
            for epoch in (1, 2):
                board.tell(row(epoch, fold))
        board.tell(row(3) | {"val_auc": float("nan")})
    first = scalars(tmp_path / "fold-0")
    assert first["loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)] and len(first["val_auc"]) == 2
    assert scalars(tmp_path / "fold-3")["val_dice"] == [(1, 0.01), (2, 0.02)]


def test_a_run_that_goes_on_leaves_each_epoch_once(tmp_path):
    for last in (2, 3):
        with livetraining.board(tmp_path) as board:
            for epoch in range(1, last + 1):
                board.tell(row(epoch))
    assert [step for step, _ in scalars(tmp_path / "fold-0")["loss"]] == [1, 2, 3]


def test_without_tensorboard_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    said = []
    assert livetraining.board(tmp_path / "board", say=said.append) is None
    assert len(said) == 1 and "TensorBoard is not installed" in said[0]
    assert not (tmp_path / "board").exists()
