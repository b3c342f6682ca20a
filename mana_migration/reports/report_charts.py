"""The charts of a report: those of the run and those that only a report can draw, since they read every record."""

from __future__ import annotations

from django.utils.translation import gettext as _

from mana_migration.domain.report import RunReport
from mana_migration.reports import charts
from mana_migration.reports.charts import Bar
from mana_migration.reports.formatting import number
from mana_migration.reports.run_charts import Chart, run_charts
from mana_migration.reports.sections import size_words


def report_charts(report: RunReport) -> list[Chart]:
    """Return the charts that a report has something to show in."""
    sizes = sizes_chart(report)
    return run_charts(report.snapshot) + ([] if sizes is None else [sizes])


def sizes_chart(report: RunReport) -> Chart | None:
    """Draw how many users were converted for how much mana."""
    if not report.sizes:
        return None
    rows = [(size_words(size), number(size.users), number(size.mana)) for size in report.sizes]
    bars = [Bar(name, size.users, users) for size, (name, users, _mana) in zip(report.sizes, rows, strict=True)]
    return Chart(
        "sizes",
        _("Conversions by size"),
        charts.bars(bars),
        (_("Mana of one user"), _("Users"), _("Mana together")),
        rows,
    )
