"""The report of a run: plain data (:class:`Report`) and the self-contained HTML page made of it."""

from chainrule.report.page import render_report
from chainrule.report.record import Report, Task

__all__ = ["Report", "Task", "render_report"]
