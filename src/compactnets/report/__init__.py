"""The report on both papers: every table and figure, what they state, what was measured, and how.

:mod:`~compactnets.report.evidence` finds what was measured among the records of :mod:`compactnets.recorded` and runs of
the user's own; :mod:`~compactnets.report.tables` sets it beside what :mod:`compactnets.papers` states;
:mod:`~compactnets.report.figures` and :mod:`~compactnets.report.diagrams` draw; :mod:`~compactnets.report.page` writes.
"""

from compactnets.report.page import write_report

__all__ = ["write_report"]
