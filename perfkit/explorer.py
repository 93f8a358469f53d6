"""Sliders over one simulated voxel: what deconvolution makes of it, redrawn at once (notebook 00)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit import drawing, lesson, paper

LAGS = np.arange(-10, 31, 0.25)  # s, where the true k is drawn


@dataclass(frozen=True)
class Control:
    """A slider: its label, range and step."""

    label: str
    low: float
    high: float
    step: float


CONTROLS = {
    "lambda_rel": Control("λ_rel", 0.01, 1.0, 0.01),
    "delay": Control("delay (s)", -4.0, 8.0, 0.5),
    "fwhm": Control("AIF width (s)", 5.0, 20.0, 0.5),
    "noise": Control("noise (HU)", 0.0, 3.0, 0.1),
    "mtt": Control("true MTT (s)", 2.0, 24.0, 0.5),
    "cbf": Control("true CBF", 5.0, 80.0, 5.0),
}


class DeconvolutionExplorer:
    """A voxel, its settings, and both deconvolutions of it. Works without a browser.

    Parameters
    ----------
    lambda_rel : Tikhonov strength relative to the largest singular value.
    delay : s the tissue lags behind the AIF.
    fwhm : s, width of the AIF.
    noise : HU on the tissue curve.
    mtt : s, true mean transit time.
    cbf : ml/100 g/min, true flow.
    matrix : ``"volterra"``, ``"circulant"`` or ``"both"``.
    residue : ``"exponential"``, ``"linear"`` or ``"box"``.
    seed : of the noise.

    Examples
    --------
    >>> explorer = DeconvolutionExplorer(delay=4)
    >>> explorer.flows["circulant"] < explorer.settings["cbf"]
    True
    """

    def __init__(
        self,
        *,
        lambda_rel: float = paper.LAMBDA_REL,
        delay: float = 0.0,
        fwhm: float = 9.0,
        noise: float = 0.0,
        mtt: float = 4.0,
        cbf: float = 60.0,
        matrix: str = "both",
        residue: str = "exponential",
        seed: int = 0,
    ):
        self.settings = {
            "lambda_rel": lambda_rel, "delay": delay, "fwhm": fwhm, "noise": noise, "mtt": mtt, "cbf": cbf,
            "matrix": matrix, "residue": residue, "seed": seed,
        }  # fmt: skip
        self._figures = []
        self.set()

    def set(self, **settings) -> DeconvolutionExplorer:
        """Change settings, compute again and redraw what is on screen."""
        unknown = set(settings) - set(self.settings)
        if unknown:
            known = ", ".join(self.settings)
            raise ValueError(f"A setting must be one of {known}: {', '.join(sorted(unknown))} came.")
        self.settings |= settings
        _check_matrix(self.settings["matrix"])
        of_voxel = {k: v for k, v in self.settings.items() if k not in ("lambda_rel", "matrix")}
        self.voxel = lesson.simulate(**of_voxel)
        self.results = {
            name: lesson.deconvolved(self.voxel, name, self.settings["lambda_rel"])
            for name in lesson.MATRIX_COLOURS
        }
        for figure in self._figures:
            self._redraw(figure)
        return self

    @property
    def flows(self) -> dict[str, float]:
        """Estimated CBF by matrix, ml/100 g/min."""
        return {name: result[2] for name, result in self.results.items()}

    @property
    def summary(self) -> str:
        """The estimates against the truth, in one line."""
        true = self.settings["cbf"]
        parts = [f"{name} {flow:.1f} ({flow / true:.0%})" for name, flow in self.flows.items()]
        return f"CBF in ml/100 g/min: true {true:.1f}, " + ", ".join(parts)

    def figure(self):
        """Draw the present state as a plotly figure that stands without a kernel."""
        figure = _empty_figure(self.summary)
        self._redraw(figure)
        return figure

    def widget(self):
        """Draw the sliders and the figure for JupyterLab."""
        import ipywidgets as widgets
        import plotly.graph_objects as go

        shown = go.FigureWidget(_empty_figure(self.summary))
        shown.layout.autosize = True
        shown._config = {"responsive": True, "displaylogo": False}
        self._figures.append(shown)
        self._redraw(shown)
        sliders = {name: _slider(name, self.settings[name]) for name in CONTROLS}
        toggles = {
            "matrix": _toggles("matrix", ["both", *lesson.MATRIX_COLOURS], self.settings["matrix"]),
            "residue": _toggles("residue", list(lesson.RESIDUES), self.settings["residue"]),
        }
        for name, control in (sliders | toggles).items():
            control.observe(lambda change, name=name: self.set(**{name: change["new"]}), names="value")
        grid = widgets.GridBox(
            list(sliders.values()), layout={"grid_template_columns": "repeat(3, minmax(260px, 1fr))"}
        )
        box = widgets.VBox([grid, widgets.HBox(list(toggles.values())), shown])
        return box.add_class("perfkit-explorer")

    def _redraw(self, figure) -> None:
        voxel = self.voxel
        sigmas = lesson.spectra(voxel.aif, voxel.dt)
        floor = min(-0.1, voxel.tissue.min() / voxel.tissue.max())  # both zero lines on one height
        lines = {
            "AIF": (voxel.times, voxel.aif),
            "tissue": (voxel.times, voxel.tissue),
            "true k": (LAGS, voxel.true_irf(LAGS)),
            "λ_rel": (np.array([1, 2 * len(voxel.times)]), np.full(2, self.settings["lambda_rel"])),
        }
        for name, (lags, irf, _) in self.results.items():
            lines[f"k {name}"] = (lags, irf)
            lines[f"σ {name}"] = (np.arange(1, len(sigmas[name]) + 1), sigmas[name] / sigmas[name][0])
        with figure.batch_update():
            for trace in figure.data:
                if trace.name in lines:
                    trace.x, trace.y = (np.round(v, 6) for v in lines[trace.name])
                if trace.meta in self.results:
                    trace.visible = self.settings["matrix"] in ("both", trace.meta)
            flows = [self.settings["cbf"], *self.flows.values()]
            bars = figure.data[-1]
            bars.y, bars.text = flows, [f"{flow:.1f}" for flow in flows]
            figure.layout.title.text = self.summary
            for axis, curve in ((figure.layout.yaxis, voxel.aif), (figure.layout.yaxis2, voxel.tissue)):
                top = 1.1 * curve.max()
                axis.range = [floor * top, top]


def _check_matrix(matrix: str) -> None:
    if matrix not in ("both", *lesson.MATRIX_COLOURS):
        raise ValueError(f"matrix must be 'volterra', 'circulant' or 'both': {matrix!r} came.")


def _empty_figure(title: str):
    import plotly.graph_objects as go

    figure = drawing.panels(
        2,
        2,
        specs=[[{"secondary_y": True}, {}], [{}, {}]],
        subplot_titles=("Curves", "Impulse response k(t)", "Singular values", "CBF = (κ/ρ) max k"),
        vertical_spacing=0.22,
        horizontal_spacing=0.16,
    )
    ink = lesson.TRUTH_COLOUR
    figure.add_scatter(name="AIF", line_color="#E69F00", row=1, col=1)
    figure.add_scatter(name="tissue", line_color=ink, row=1, col=1, secondary_y=True)
    figure.add_scatter(name="true k", line={"color": ink, "dash": "dot"}, row=1, col=2)
    figure.add_scatter(name="λ_rel", mode="lines", line={"color": "#6B7280", "dash": "dot"}, row=2, col=1)
    for name, colour in lesson.MATRIX_COLOURS.items():
        style = {"line_color": colour, "meta": name}
        figure.add_scatter(name=f"k {name}", row=1, col=2, **style)
        figure.add_scatter(name=f"σ {name}", row=2, col=1, mode="lines", showlegend=False, **style)
    names = ["truth", *lesson.MATRIX_COLOURS]
    bars = go.Bar(x=[0, 1, 2], marker_color=[ink, *lesson.MATRIX_COLOURS.values()], showlegend=False)
    figure.add_trace(bars.update(name="CBF", textposition="auto"), row=2, col=2)
    figure.update_xaxes(title="time (s)", row=1, col=1)
    figure.update_xaxes(title="lag (s)", range=[-10, 40], row=1, col=2)
    figure.update_xaxes(title="index", row=2, col=1)
    figure.update_yaxes(title="AIF (HU)", row=1, col=1, secondary_y=False)
    figure.update_yaxes(title="tissue (HU)", row=1, col=1, secondary_y=True, showgrid=False, tickmode="auto")
    figure.update_yaxes(title="k (1/s)", row=1, col=2)
    figure.update_yaxes(title="σ / σ_max", type="log", range=[-4, 0.1], row=2, col=1)
    # Numbers with labels, not names as x: FigureWidget loses the names on the way to the browser.
    figure.update_xaxes(tickvals=[0, 1, 2], ticktext=names, row=2, col=2)
    figure.update_yaxes(title="CBF (ml/100 g/min)", range=[0, 90], row=2, col=2)
    legend = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
    return figure.update_layout(height=560, title_text=title, title_font_size=14, legend=legend)


def _slider(name: str, value: float):
    import ipywidgets as widgets

    control = CONTROLS[name]
    shared = {"value": value, "description": control.label, "continuous_update": True}
    style = {"style": {"description_width": "95px"}, "layout": {"width": "98%"}}
    slider = widgets.FloatSlider(min=control.low, max=control.high, step=control.step, **shared)
    slider.style, slider.layout = style["style"], style["layout"]
    return slider.add_class(f"perfkit-{name}")


def _toggles(name: str, options: list[str], value: str):
    import ipywidgets as widgets

    return widgets.ToggleButtons(
        options=options, value=value, description=name, style={"button_width": "100px"}
    ).add_class(f"perfkit-{name}")
