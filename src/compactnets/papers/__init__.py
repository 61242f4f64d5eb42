"""The two papers: their statements as data, and our measurements.

:mod:`compactnets.papers.stated` has every row of every table, the training settings, the differences that the text
quotes, and the places where a paper contradicts itself. :mod:`compactnets.papers.cost` compares the stated
multiply-adds and parameters with a count of our networks.
"""

from compactnets.papers.schema import Paper, Row
from compactnets.papers.stated import PAPERS, load_paper, load_papers, stated_rows

__all__ = ["PAPERS", "Paper", "Row", "load_paper", "load_papers", "stated_rows"]
