"""Clean a few reports and look at what was done to them (`python examples/clean_reports.py`)."""

from unix_cxr import ReportCleaner

REPORTS = [
    "FINDINGS: In comparison with the study of ___, there is little change in the substantial "
    "enlargement of the cardiac silhouette. Status post prior CABG.",
    "FINDINGS: Unchanged right PICC ending in the mid SVC. Findings were discussed with Dr. ___.",
    "IMPRESSION: Previously seen right effusion has resolved. Recommend follow-up CT.",
]


def main() -> None:
    cleaner = ReportCleaner()
    for report in cleaner.map(REPORTS):
        print(report.text)
        for change in report.rewritten:
            print(f"  rewritten by {change.rule}")
        for removed in report.removed:
            print(f"  removed by {removed.rule}: {removed.sentence}")
        for name, label in report.labels.items():
            print(f"  {name}: {label.state} {' '.join(label.sides)}".rstrip())


if __name__ == "__main__":
    main()
