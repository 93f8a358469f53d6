"""One voxel whose truth is known, deconvolved: the tables and figures of notebook 00.

The tissue curve is made on a fine time grid by its own convolution, never through ``deconvolution``: what the
notebook shows as an error of the method is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from perfkit import curves, drawing, paper
from perfkit.deconvolution import (
    FLOW_UNITS,
    circulant_matrix,
    flow,
    impulse_response,
    lag_window,
    tikhonov_filter,
    volterra_matrix,
)

ONSET = 8.0  # s; the mean onset of the AIFs of ISLES 2018 (7.6 s), rounded
AIF_PEAK = 180.0  # HU; of the order of the unmixed arterial peaks of ISLES 2018 (venous median 148 HU)
FINE_STEP = 0.05  # s; our choice: a twentieth of a frame, so the sum is the integral to 1e-3
MATRIX_COLOURS = {"volterra": "#D55E00", "circulant": "#0072B2"}
TRUTH_COLOUR = "#111827"
LEGEND_BELOW = {"y": -0.22, "yanchor": "top"}  # above, it would cover the titles of the panels
RESIDUES = ("exponential", "linear", "box")


@dataclass(frozen=True, eq=False)
class Voxel:
    """A voxel with its truth: aif and tissue (T,) in HU above baseline at times (T,) s; flow and delay."""

    times: np.ndarray
    aif: np.ndarray
    tissue: np.ndarray
    cbf: float
    mtt: float
    delay: float
    residue: str
    dt: float

    def true_irf(self, lags):
        """Give the impulse response (…,) in 1/s at ``lags`` (…,) in s."""
        return self.cbf / FLOW_UNITS * residue_function(np.asarray(lags) - self.delay, self.mtt, self.residue)


def simulate(
    *,
    cbf: float = 60.0,
    mtt: float = 4.0,
    delay: float = 0.0,
    fwhm: float = 9.0,
    noise: float = 0.0,
    residue: str = "exponential",
    dt: float = 1.0,
    n_frames: int = 60,
    seed: int = 0,
) -> Voxel:
    """Make an arterial and a tissue curve.

    Parameters
    ----------
    cbf : ml/100 g/min.
    mtt : s, mean transit time.
    delay : s the tissue lags behind the AIF; negative: the AIF was measured downstream.
    fwhm : s, width of the AIF.
    noise : HU, standard deviation of white noise on the tissue curve.
    residue : ``"exponential"``, ``"linear"`` or ``"box"``.
    dt : s.
    n_frames : T.
    seed : of the noise.

    Notes
    -----
    c(t) = ∫ a(τ) k(t − τ) dτ with k(t) = CBF ρ / (6000 κ) R(t − delay).
    """
    fine = np.arange(0, n_frames * dt, FINE_STEP)
    aif = _bolus(fine, fwhm)
    shifted = _bolus(fine - delay, fwhm)
    irf = cbf / FLOW_UNITS * residue_function(fine, mtt, residue)
    irf[0] /= 2  # trapezium rule: R jumps to 1 at 0
    tissue = np.convolve(shifted, irf)[: len(fine)] * FINE_STEP
    step = round(dt / FINE_STEP)
    random = np.random.default_rng(seed)
    measured = tissue[::step][:n_frames] + noise * random.standard_normal(n_frames)
    return Voxel(
        dt * np.arange(n_frames), aif[::step][:n_frames], measured, cbf, mtt, delay, residue, dt
    )  # fmt: skip


def residue_function(t, mtt: float, family: str = "exponential"):
    """Give the share of tracer still in the tissue at ``t`` (s): 1 at 0, area MTT, 0 before 0."""
    if family not in RESIDUES:
        raise ValueError(f"residue must be one of {', '.join(RESIDUES)}: {family!r} came.")
    x = np.asarray(t, float) / mtt
    shapes = {
        "exponential": np.exp(-np.clip(x, 0, None)),
        "linear": np.clip(1 - x / 2, 0, None),
        "box": (x < 1) * 1.0,
    }
    return np.where(x >= 0, shapes[family], 0.0)


def _bolus(t, fwhm):
    # α = 3 as in the Kudo phantom: its half width is 1.41 of the time to its peak.
    return curves.gamma_variate(t, ONSET, ONSET + fwhm / 1.41, fwhm, AIF_PEAK)


def deconvolved(voxel: Voxel, matrix: str, lambda_rel: float = paper.LAMBDA_REL):
    """Deconvolve a voxel and read its flow.

    Parameters
    ----------
    voxel : the voxel.
    matrix : ``"volterra"`` or ``"circulant"``.
    lambda_rel : Tikhonov strength relative to the largest singular value.

    Returns
    -------
    lags : (W,), s, in rising order.
    irf : (W,), 1/s.
    cbf : ml/100 g/min.
    """
    k = impulse_response(voxel.tissue, voxel.aif, voxel.dt, matrix=matrix, lambda_rel=lambda_rel)
    lags = lag_window(len(voxel.times), voxel.dt, matrix)
    return lags * voxel.dt, k[lags], float(flow(k[lags]))


def delay_sensitivity(shifts=(-4, -2, 0, 2, 4), mtts=(4, 10), **options):
    """Move the AIF in time and see what CBF does.

    Parameters
    ----------
    shifts : s the AIF comes too late (negative: too early).
    mtts : s.
    options : of ``simulate``.

    Returns
    -------
    DataFrame with the columns matrix, mtt, shift, ratio (CBF over the true CBF).
    """
    import pandas as pd

    rows = []
    for matrix, mtt, shift in product(MATRIX_COLOURS, mtts, shifts):
        voxel = simulate(mtt=mtt, delay=-shift, **options)
        rows.append((matrix, mtt, shift, deconvolved(voxel, matrix)[2] / voxel.cbf))
    return pd.DataFrame(rows, columns=["matrix", "mtt", "shift", "ratio"])


def flow_bias(fwhms=(6, 9, 12), mtts=(3.7, 6, 11, 24), lambdas=(0.3, 0.1), **options):
    """Compare estimated with true CBF over AIF width, transit time and λ (circulant, no noise).

    Parameters
    ----------
    fwhms : s, width of the AIF.
    mtts : s.
    lambdas : λ_rel.
    options : of ``simulate``.

    Returns
    -------
    DataFrame with the columns fwhm, lambda_rel, mtt, ratio (CBF over the true CBF).
    """
    import pandas as pd

    rows = []
    for fwhm, mtt in product(fwhms, mtts):
        voxel = simulate(fwhm=fwhm, mtt=mtt, n_frames=160, **options)
        for strength in lambdas:
            rows.append((fwhm, strength, mtt, deconvolved(voxel, "circulant", strength)[2] / voxel.cbf))
    return pd.DataFrame(rows, columns=["fwhm", "lambda_rel", "mtt", "ratio"])


def matrix_figure(aif, dt: float = 1.0):
    """Show the Volterra and the circulant matrix of an AIF (T,) side by side."""
    import plotly.graph_objects as go

    figure = drawing.panels(1, 2, subplot_titles=("Volterra (Eq. 4)", "Block-circulant"))
    for column, matrix in enumerate((volterra_matrix(aif, dt), circulant_matrix(aif, dt)), start=1):
        where = "<br>".join(["row %{y}, column %{x}", "%{z:.0f} HU s<extra></extra>"])
        shown = {"coloraxis": "coloraxis", "hovertemplate": where}
        figure.add_trace(go.Heatmap(z=matrix.round(1), **shown), row=1, col=column)
    figure.update_xaxes(title="column j: lag of k (frame)", constrain="domain")
    figure.update_yaxes(title="row i: frame of the tissue curve", autorange="reversed", constrain="domain")
    figure.layout.yaxis.scaleanchor, figure.layout.yaxis2.scaleanchor = "x", "x2"
    return figure.update_layout(
        height=430, coloraxis={"colorscale": "Cividis", "colorbar": {"title": "A (HU s)"}}
    )


def spectrum_figure(aif, dt: float = 1.0, lambda_rel: float = paper.LAMBDA_REL):
    """Show the singular values of both matrices and what Tikhonov's filter leaves of each."""
    import plotly.graph_objects as go

    figure = drawing.panels(1, 2, subplot_titles=("Singular values (Eq. 5)", "Filter factors (Eq. 7)"))
    for name, sigma in spectra(aif, dt).items():
        style = {"name": name, "legendgroup": name, "line": {"color": MATRIX_COLOURS[name]}}
        shown = {"values": sigma / sigma[0], "factors": tikhonov_filter(sigma, lambda_rel)}
        for column, y in enumerate(shown.values(), start=1):
            order = np.arange(1, len(y) + 1)
            line = go.Scatter(x=order, y=y, mode="lines+markers", showlegend=column == 1, **style)
            figure.add_trace(line.update(marker={"size": 4}), row=1, col=column)
    figure.add_hline(
        lambda_rel, line_dash="dot", annotation_text=f"λ_rel = {lambda_rel:g}", row=1, col=1
    )  # fmt: skip
    figure.update_xaxes(title="index i")
    figure.update_yaxes(title="σ_i / σ_max", type="log", range=[-4, 0.1], row=1, col=1)
    figure.update_yaxes(title="f_i = σ_i² / (σ_i² + λ²)", range=[0, 1], row=1, col=2)
    return figure.update_layout(height=420, legend=LEGEND_BELOW)


def spectra(aif, dt: float = 1.0):
    """Give the singular values of both matrices, falling: {"volterra": (T,), "circulant": (L,)} in HU s."""
    matrices = {"volterra": volterra_matrix(aif, dt), "circulant": circulant_matrix(aif, dt)}
    return {name: np.linalg.svd(matrix, compute_uv=False) for name, matrix in matrices.items()}


def delay_figure(table):
    """Plot a table of ``delay_sensitivity``: CBF over truth against the shift of the AIF."""
    import plotly.graph_objects as go

    figure = drawing.panels(1, 1)
    for (matrix, mtt), rows in table.groupby(["matrix", "mtt"], sort=False):
        style = {"color": MATRIX_COLOURS[matrix], "dash": "solid" if mtt == table.mtt.min() else "dash"}
        line = go.Scatter(x=rows["shift"], y=rows["ratio"], name=f"{matrix}, MTT {mtt:g} s", line=style)
        figure.add_trace(line)
    figure.add_hline(1, line_color="#9CA3AF", line_width=1)
    figure.update_xaxes(title="AIF later by (s)")
    figure.update_yaxes(title="CBF / true CBF", rangemode="tozero")
    return figure.update_layout(height=380)


def bias_figure(table):
    """Plot a table of ``flow_bias``: CBF over truth against MTT, one panel per λ."""
    import plotly.graph_objects as go

    lambdas = list(dict.fromkeys(table["lambda_rel"]))
    titles = [f"λ_rel = {strength:g}" for strength in lambdas]
    figure = drawing.panels(1, len(lambdas), shared_yaxes=True, subplot_titles=titles)
    colours = dict(zip(dict.fromkeys(table["fwhm"]), ("#56B4E9", "#0072B2", "#1F2937"), strict=False))
    for (strength, fwhm), rows in table.groupby(["lambda_rel", "fwhm"]):
        style = {"name": f"AIF {fwhm:g} s wide", "line": {"color": colours.get(fwhm)}}
        line = go.Scatter(x=rows["mtt"], y=rows["ratio"], showlegend=strength == lambdas[0], **style)
        figure.add_trace(line, row=1, col=1 + lambdas.index(strength))
    figure.add_hline(1, line_color="#9CA3AF", line_width=1)
    figure.update_xaxes(title="true MTT (s)")
    figure.update_yaxes(title="CBF / true CBF", rangemode="tozero", col=1)
    return figure.update_layout(height=400, legend=LEGEND_BELOW)
