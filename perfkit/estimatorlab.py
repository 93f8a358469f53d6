"""Sliders over one voxel: what a plain and a calibrated estimator read, beside what is true (notebook 06)."""

from __future__ import annotations

import numpy as np

from perfkit import drawing, estimators, forward, paper, tissuesample
from perfkit.deconvolution import FLOW_UNITS, SYSTEMS, impulse_response, lag_window
from perfkit.explorer import Control
from perfkit.maps import TMAX_THRESHOLD

CONTROLS = {
    "fwhm": Control("AIF width (s)", 5.0, 20.0, 0.5),
    "mtt": Control("true MTT (s)", 2.0, 24.0, 0.5),
    "delay": Control("true delay (s)", 0.0, 10.0, 0.5),
    "lambda_rel": Control("λ_rel", 0.02, 1.0, 0.01),
    "noise": Control("noise (HU)", 0.0, 3.0, 0.1),
    "end": Control("scan ends (s)", 30.0, 90.0, 5.0),
}
FAMILIES = ("exponential", "gamma", "box", "linear")
DRAWS = 60  # our choice: repetitions of the noise; the error of their spread is a tenth of it
ONSET = 8.0  # s; docs/science.md §7: the mean onset of real AIFs, 7.6 s, rounded
REFERENCE = (53.0, 3.7, 0.5)  # CBF, MTT, delay of healthy grey matter (docs/science.md §7), to divide by
LAGS = np.arange(-10, 41, 0.25)  # s, where the true k is drawn
STEP = 0.02  # s; our choice: over which the residue is taken as a difference of its integral
TRUTH, PLAIN, CALIBRATED = "#111827", "#D55E00", "#0072B2"
COLOURS = {"truth": TRUTH, "plain": PLAIN, "calibrated": CALIBRATED}
READ = ("cbf", "cbv", "mtt")
DICE_LINES = (  # panel, column of the table, words of the legend, dash
    (1, "dice_nominal", "at 0.30", "solid"),
    (1, "dice_best", "at the best threshold", "dot"),
    (2, "best", "best threshold", "solid"),
)
BAR_STYLE = {"error_y": {"type": "data"}, "textposition": "inside", "insidetextanchor": "start"}


class EstimatorLab:
    """A voxel of known flow, measured again and again, and what the estimators read. Needs no browser.

    Parameters
    ----------
    fwhm : s, width of the AIF.
    mtt : s, true mean transit time.
    delay : s the tissue truly lags behind the AIF.
    lambda_rel : Tikhonov strength relative to the largest singular value, of both estimators.
    noise : HU, standard deviation of white noise on the tissue curve.
    end : s, when the scan ends.
    cbf : ml/100 g/min, true flow.
    matrix : ``"circulant"``, ``"volterra"`` or ``"truncated"``.
    residue : true family: ``"exponential"``, ``"gamma"``, ``"box"`` or ``"linear"``.
    seed : of the noise.

    Examples
    --------
    >>> lab = EstimatorLab(noise=0.0)
    >>> lab.readings["plain"]["cbf"] < 0.6 * lab.settings["cbf"]
    True
    """

    def __init__(
        self,
        *,
        fwhm: float = 10.0,
        mtt: float = 9.0,
        delay: float = 3.0,
        lambda_rel: float = paper.LAMBDA_REL,
        noise: float = 0.7,
        end: float = 60.0,
        cbf: float = 16.0,
        matrix: str = "circulant",
        residue: str = "gamma",
        seed: int = 0,
    ):
        self.settings = {
            "fwhm": fwhm, "mtt": mtt, "delay": delay, "lambda_rel": lambda_rel, "noise": noise, "end": end,
            "cbf": cbf, "matrix": matrix, "residue": residue, "seed": seed,
        }  # fmt: skip
        self._figures = []
        self.set()

    def set(self, **settings) -> EstimatorLab:
        """Change settings, measure again and redraw what is on screen."""
        unknown = set(settings) - set(self.settings)
        if unknown:
            known = ", ".join(self.settings)
            raise ValueError(f"A setting must be one of {known}: {', '.join(sorted(unknown))} came.")
        self.settings |= settings
        _check(self.settings)
        self._measure()
        for figure in self._figures:
            self._redraw(figure)
        return self

    @property
    def truth(self) -> dict[str, float]:
        """The true cbf, cbv, mtt, delay and rcbf of the voxel; its Tmax, rid of all bias, is the delay."""
        s = self.settings
        values = {"cbf": s["cbf"], "cbv": s["cbf"] * s["mtt"] / 60, "mtt": s["mtt"], "delay": s["delay"]}
        return values | {"rcbf": s["cbf"] / REFERENCE[0]}

    @property
    def summary(self) -> str:
        """The relative flow and the delay that each reads, in one line."""
        read, true = self.readings, self.truth
        parts = [
            f"{name} reads {r['rcbf']:.0%} ± {self.spreads[name]['rcbf']:.0%}, {r['delay']:.1f} s"
            for name, r in read.items()
        ]
        return f"True flow {true['rcbf']:.0%} of healthy, {true['delay']:.1f} s late; " + "; ".join(parts)

    def _measure(self):
        """Make the curves once, the noise ``DRAWS`` times, and read both estimators off each."""
        s = self.settings
        bolus = tissuesample.arterial(s["fwhm"], onset=ONSET)
        values = np.array([[s["cbf"], s["mtt"], s["delay"]], REFERENCE])
        tissue = tissuesample.sampled(bolus, *values.T, residue=s["residue"], n_frames=round(s["end"]) + 1)
        rng = np.random.default_rng(s["seed"])
        noisy = tissue.curves[0] + s["noise"] * rng.normal(size=(DRAWS, tissue.curves.shape[1]))
        self.times, self.aif, self.tissue = np.arange(len(tissue.aif)) * tissue.dt, tissue.aif, noisy[0]
        options = {"matrix": s["matrix"], "lambda_rel": s["lambda_rel"]}
        self.readings, self.spreads = {}, {}
        for name, extra in (("plain", {}), ("calibrated", {"estimator": "calibrated"})):
            curves = np.concatenate([noisy, tissue.curves[1:]])
            found = estimators.read(curves, tissue.aif, tissue.dt, options | extra, noise=s["noise"])
            found["rcbf"] = found["cbf"] / found["cbf"][-1]  # the reference is a mean over many voxels
            self.readings[name] = {key: float(values[:-1].mean()) for key, values in found.items()}
            self.spreads[name] = {key: float(values[:-1].std()) for key, values in found.items()}
        lags = lag_window(len(self.times), tissue.dt, s["matrix"])
        k = impulse_response(self.tissue, self.aif, tissue.dt, **options)
        self.irf = lags * tissue.dt, k[lags]

    def figure(self):
        """Draw the present state as a plotly figure that stands without a kernel."""
        figure = _empty_figure()
        self._redraw(figure)
        return figure

    def widget(self):
        """Draw the sliders and the figure for JupyterLab."""
        import ipywidgets as widgets
        import plotly.graph_objects as go

        shown = go.FigureWidget(_empty_figure())
        shown.layout.autosize = True
        shown._config = {"responsive": True, "displaylogo": False}
        self._figures.append(shown)
        self._redraw(shown)
        sliders = {name: _slider(name, self.settings[name]) for name in CONTROLS}
        toggles = {
            name: widgets.ToggleButtons(options=list(known), value=self.settings[name], description=name)
            for name, known in (("matrix", SYSTEMS), ("residue", FAMILIES))
        }
        for name, control in (sliders | toggles).items():
            control.observe(lambda change, name=name: self.set(**{name: change["new"]}), names="value")
        grid = widgets.GridBox(
            list(sliders.values()), layout={"grid_template_columns": "repeat(3, minmax(260px, 1fr))"}
        )
        return widgets.VBox([grid, widgets.HBox(list(toggles.values())), shown])

    def _redraw(self, figure) -> None:
        s, true = self.settings, self.truth
        lines = {
            "AIF / 20": (self.times, self.aif / 20),
            "tissue": (self.times, self.tissue),
            "true k": (LAGS, true_irf(s["cbf"], s["mtt"], s["delay"], s["residue"])),
            "estimated k": self.irf,
        }
        found = self.readings["calibrated"]
        lines["k as calibrated"] = (LAGS, true_irf(found["cbf"], found["mtt"], found["delay"], "gamma"))
        with figure.batch_update():
            for trace in figure.data:
                if trace.name in lines:
                    trace.x, trace.y = (np.round(v, 6) for v in lines[trace.name])
                elif trace.meta == "share":
                    read, spread = self.readings[trace.name], self.spreads[trace.name]
                    trace.y = [100 * read[key] / true[key] for key in READ]
                    trace.error_y.array = [100 * spread[key] / true[key] for key in READ]
                    trace.text = [f"{read[key]:.1f}" for key in READ]
            delays = [true["delay"], self.readings["plain"]["tmax"], self.readings["calibrated"]["delay"]]
            bars = figure.data[-1]
            bars.y, bars.text = delays, [f"{value:.1f} s" for value in delays]
            bars.error_y.array = [0, self.spreads["plain"]["tmax"], self.spreads["calibrated"]["delay"]]
            figure.layout.title.text = self.summary


def true_irf(cbf: float, mtt: float, delay: float, residue: str):
    """Give k at ``LAGS``: flow times the residue function, (L,), 1/s."""
    at = LAGS - delay
    after, here = (forward.residue_integral(at + h, mtt, residue) for h in (STEP, 0))
    return cbf / FLOW_UNITS * np.where(at >= 0, after - here, 0.0) / STEP


def width_figure(table):
    """Plot a table of ``metamorphic.dice_by_width``: Dice at the nominal and the best threshold by AIF width.

    Lines are means over the residue families, the band spans them at the nominal threshold.
    """
    import plotly.graph_objects as go

    figure = drawing.panels(1, 2, subplot_titles=("Dice of the core", "Threshold that would have been best"))
    for label, colour in zip(dict.fromkeys(table["estimator"]), (PLAIN, CALIBRATED), strict=False):
        groups = table[table["estimator"] == label].groupby("fwhm")
        mean, low, high = (getattr(groups, how)(numeric_only=True) for how in ("mean", "min", "max"))
        x, y = mean.index.to_numpy(), (high["dice_nominal"], low["dice_nominal"][::-1])
        band = go.Scatter(x=np.concatenate([x, x[::-1]]), y=np.concatenate(y), mode="lines", line_width=0)
        band.update(fill="toself", fillcolor=colour, opacity=0.2, showlegend=False, hoverinfo="skip")
        figure.add_trace(band, row=1, col=1)
        for column, name, words, dash in DICE_LINES:
            line = go.Scatter(x=x, y=mean[name], line={"color": colour, "dash": dash}, mode="lines+markers")
            line.update(name=f"{label} {words}", showlegend=column == 1)
            figure.add_trace(line, row=1, col=column)
    figure.add_hline(0.30, line_dash="dash", line_color="#9CA3AF", row=1, col=2)
    figure.update_xaxes(title="width of the AIF (s)")
    figure.update_yaxes(title="Dice", range=[0, 1], col=1)
    figure.update_yaxes(title="rCBF", range=[0.2, 0.5], col=2)
    return figure.update_layout(height=400, legend={"y": -0.22, "yanchor": "top"})


def _check(settings) -> None:
    for name, known in (("matrix", SYSTEMS), ("residue", FAMILIES)):
        if settings[name] not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}: {settings[name]!r} came.")
    for name, control in CONTROLS.items():
        if not control.low <= settings[name] <= control.high:
            raise ValueError(
                f"{name} must lie between {control.low:g} and {control.high:g}: {settings[name]:g} came."
            )


def _empty_figure():
    import plotly.graph_objects as go

    titles = ("What the scanner sees", "k(t): flow times what is left", "Read off, of the truth", "Delay")
    figure = drawing.panels(2, 2, subplot_titles=titles, vertical_spacing=0.2, horizontal_spacing=0.12)
    figure.add_scatter(name="AIF / 20", line_color="#E69F00", row=1, col=1)
    figure.add_scatter(name="tissue", line_color=TRUTH, row=1, col=1)
    for name, colour, dash in (
        ("true k", TRUTH, "dot"),
        ("estimated k", PLAIN, "solid"),
        ("k as calibrated", CALIBRATED, "dash"),
    ):
        figure.add_scatter(name=name, line={"color": colour, "dash": dash}, row=1, col=2)
    for name in ("plain", "calibrated"):
        bars = go.Bar(x=[0, 1, 2], name=name, meta="share", marker_color=COLOURS[name], showlegend=False)
        figure.add_trace(bars.update(BAR_STYLE), row=2, col=1)
    figure.add_hline(100, line={"color": TRUTH, "dash": "dot"}, row=2, col=1)
    bars = go.Bar(x=[0, 1, 2], marker_color=list(COLOURS.values()), showlegend=False, name="delay")
    figure.add_trace(bars.update(BAR_STYLE), row=2, col=2)
    figure.add_hline(TMAX_THRESHOLD, line={"color": "#6B7280", "dash": "dash"}, row=2, col=2)
    figure.update_xaxes(title="time (s)", range=[0, 90], row=1, col=1)
    figure.update_xaxes(title="lag (s)", range=[-10, 40], row=1, col=2)
    figure.update_yaxes(title="HU above baseline", row=1, col=1)
    figure.update_yaxes(title="k (1/s)", row=1, col=2)
    # Numbers with labels, not names as x: FigureWidget loses the names on the way to the browser.
    figure.update_xaxes(tickvals=[0, 1, 2], ticktext=[name.upper() for name in READ], row=2, col=1)
    names = ["true delay", "Tmax (plain)", "delay (calibrated)"]
    figure.update_xaxes(tickvals=[0, 1, 2], ticktext=names, row=2, col=2)
    figure.update_yaxes(title="% of the truth", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title="s", row=2, col=2)
    legend = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
    return figure.update_layout(height=580, title_font_size=14, legend=legend, barmode="group")


def _slider(name: str, value: float):
    import ipywidgets as widgets

    control = CONTROLS[name]
    slider = widgets.FloatSlider(value, min=control.low, max=control.high, step=control.step)
    slider.description, slider.layout = control.label, {"width": "98%"}
    slider.style = {"description_width": "105px"}
    return slider.add_class(f"perfkit-{name}")
