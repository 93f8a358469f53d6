"""What the statistical figures share: rows asked of a table, styles of arms, words where there is nothing."""

from __future__ import annotations

from .drawing import arm_style, introduce, panels
from .scoretables import ordered_arms

INK, PALE = "#374151", "#D1D5DB"  # lines of statistics, lines of no difference
SMALL = 11  # px; our choice: 7 pt on paper at the scale of `export`


def rows_to_draw(table, columns, matrix):
    """Return the rows of one matrix of a tidy table; none of a table without rows, or None.

    Parameters
    ----------
    table : DataFrame, or None.
    columns : that must be there.
    matrix : the deconvolution matrix; not asked where the table has no such column.

    Raises
    ------
    ValueError : the table has rows, but not these columns.
    """
    import pandas as pd

    if table is None or not len(table):
        return pd.DataFrame(columns=list(columns))
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"The table to draw must have the columns {list(columns)}: {missing} are missing, it has "
            f"{list(table.columns)}. Try the tables of `evaluation.evaluate` and `comparison`."
        )
    return table[table["matrix"] == matrix] if "matrix" in table.columns else table


def arm_styles(arms) -> dict[str, dict]:
    """Give each arm the colour, dash and symbol it has in all figures, in the order of the study.

    Arms that are not of this study get what the others leave, and keep it: see ``drawing.introduce``.
    """
    arms = ordered_arms(arms)
    introduce(arms)
    return {arm: arm_style(arm) for arm in arms}


def wash(colour: str, opacity: float) -> str:
    """Return a hexadecimal colour as a transparent one."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def grid(n: int, most: int) -> tuple[int, int]:
    """Return (rows, columns) of n panels, ``most`` in a row, the rows as even as can be."""
    rows = max(1, -(-n // most))
    return rows, max(1, -(-n // rows))


def empty_figure(text: str, x_title: str = "", y_title: str = ""):
    """Return a figure that says in its middle why there is nothing to see."""
    figure = panels(1, 1)
    say(figure, text, 1, 1)
    figure.update_xaxes(title_text=x_title, range=[0, 1], showticklabels=False, showgrid=False)
    figure.update_yaxes(title_text=y_title, range=[0, 1], showticklabels=False, showgrid=False)
    return figure.update_layout(height=240, showlegend=False)


def say(figure, text: str, row: int, column: int, *, x=0.5, y=0.5, **style) -> None:
    """Write into a panel, at shares of its width and height."""
    axes = figure.get_subplot(row, column)
    names = {f"{name}ref": f"{axis.plotly_name.replace('axis', '')} domain" for name, axis in _named(axes)}
    font = {"size": SMALL, "color": INK} | style.pop("font", {})
    figure.add_annotation(text=text, x=x, y=y, showarrow=False, font=font, **names, **style)


def _named(axes):
    return (("x", axes.xaxis), ("y", axes.yaxis))
