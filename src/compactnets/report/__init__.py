"""The report on both papers: every table and figure, with the stated values, our measurements and their origin.

:mod:`~compactnets.report.evidence` collects measurements from :mod:`compactnets.recorded` and the user's runs.
:mod:`~compactnets.report.tables` compares them with the values of :mod:`compactnets.papers`.
:mod:`~compactnets.report.figures` and :mod:`~compactnets.report.diagrams` draw. :mod:`~compactnets.report.page` writes
the files.
"""

from compactnets.report.page import write_report

__all__ = ["write_report"]
