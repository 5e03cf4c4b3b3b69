"""The examples run and say what the guide says."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_clean_reports(capsys):
    runpy.run_path(str(EXAMPLES / "clean_reports.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "There is substantial enlargement of the cardiac silhouette." in printed
    assert "Status post prior CABG." in printed
    assert "No right effusion." in printed
    assert "removed by communication.told: Findings were discussed with Dr. ___." in printed


def test_the_function_for_datasets_keeps_the_order():
    module = runpy.run_path(str(EXAMPLES / "clean_with_datasets.py"))
    batch = {"text": ["Stable cardiomegaly.", "", "<p>x</p>"]}
    assert module["clean_batch"](batch) == {
        "text": ["Cardiomegaly.", "", ""],
        "status": ["clean", "empty", "quarantined"],
        "reason": ["", "no text", "html"],
    }


def test_under_datasets_map(capsys):
    pytest.importorskip("datasets", reason="datasets is not installed: unix-cxr[data]")
    runpy.run_path(str(EXAMPLES / "clean_with_datasets.py"), run_name="__main__")
    assert "No effusion." in capsys.readouterr().out
