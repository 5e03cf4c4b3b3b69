"""The 3,955 real reports, where they are present: accounted for, and hardly anything left over."""

import pytest
from test_labeler import is_dev

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.leftovers import leftovers
from unix_cxr.reports.readers import read_rows
from unix_cxr.reports.records import Status


@pytest.mark.slow
def test_every_report_is_accounted_for_and_leftovers_are_rare(openi):
    cleaner = ReportCleaner()
    reports = [(row.report_id, cleaner.clean(row.text)) for row in read_rows(openi)]
    assert len(reports) == 3955
    assert sum(report.status is Status.CLEAN for _, report in reports) >= 3900
    assert not [i for i, report in reports if report.status is Status.QUARANTINED]
    for half in (True, False):
        chosen = [report for i, report in reports if is_dev(i) == half]
        left = sum(bool(leftovers(report.text)) for report in chosen)
        assert left / len(chosen) < 0.015


@pytest.mark.slow
def test_real_reports_are_left_alone_the_second_time(openi):
    cleaner = ReportCleaner()
    for row in read_rows(openi):
        once = cleaner.clean(row.text).text
        assert cleaner.clean(once).text == once
