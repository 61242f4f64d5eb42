"""The two papers: what they state, as data, and what we measure.

:mod:`compactnets.papers.stated` has every row of every table, the training settings, the differences that the text
draws and the places where a paper disagrees with itself; :mod:`compactnets.papers.cost` compares the stated
multiply-adds and parameters with a count of our networks.
"""

from compactnets.papers.schema import Paper, Row
from compactnets.papers.stated import PAPERS, load_paper, load_papers, stated_rows

__all__ = ["PAPERS", "Paper", "Row", "load_paper", "load_papers", "stated_rows"]
