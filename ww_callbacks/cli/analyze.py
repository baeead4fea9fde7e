"""``ww-callbacks analyze``."""

from __future__ import annotations

import argparse
import json

from ww_callbacks.cli.options import analysis_arguments
from ww_callbacks.cli.output import Writers, chosen_format, show_progress, status_of, to_csv, write
from ww_callbacks.cli.paths import check_exists
from ww_callbacks.cli.tables import print_report, report_text
from ww_callbacks.models import analyze
from ww_callbacks.page.comparison import comparison_page
from ww_callbacks.page.known import run_of_report
from ww_callbacks.page.single import page_file
from ww_callbacks.report import COLUMNS, Comparison, Report
from ww_callbacks.weights.files.urls import name_in


def run(arguments: argparse.Namespace) -> int:
    """Analyse a file and write the report."""
    kind = chosen_format(arguments, list(WRITERS))
    check_exists(arguments.file)
    if arguments.baseline is not None:
        check_exists(arguments.baseline)
    report = analyze(
        arguments.file,
        baseline=arguments.baseline,
        progress=show_progress(arguments),
        **analysis_arguments(arguments),
    )
    if kind == "table" and arguments.output is None:
        print_report(report, report.findings)
    else:
        write(WRITERS[kind](report, name_in(arguments.file)), arguments.output)
    return status_of([report])


def _table(report: Report, title: str) -> str:
    return report_text(report, report.findings)


def _json(report: Report, title: str) -> str:
    return json.dumps(
        {
            "model": title,
            "summary": report.summary(),
            "layers": report.to_dicts(),
            "findings": [finding.to_dict() for finding in report.findings],
        },
        allow_nan=False,
    )


def _csv(report: Report, title: str) -> str:
    return to_csv(COLUMNS, report.to_dicts())


def _html(report: Report, title: str) -> str:
    if report.baseline is None:
        return page_file({title: run_of_report(report, title)}, title)
    before = "baseline" if title != "baseline" else "its baseline"
    return comparison_page(Comparison({before: report.baseline, title: report}), title)


WRITERS: Writers[Report] = {"table": _table, "json": _json, "csv": _csv, "html": _html}
