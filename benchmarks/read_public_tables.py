"""The readers of corpora on the real tables that torchxrayvision's wheel carries.

Run: pip download --no-deps torchxrayvision==1.5.7
     python benchmarks/read_public_tables.py --wheel torchxrayvision-1.5.7-py3-none-any.whl
The wheel is read as an archive, nothing is installed. It has no images: every image counts as
there. Prints JSON: studies, patients, examinations and bad rows of each corpus.
"""

import argparse
import gzip
import io
import json
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from unittest.mock import patch

from unix_cxr.data.sources import open_source
from unix_cxr.data.statistics import statistics_of

TABLES = {
    "nih/Data_Entry_2017_v2020.csv": "Data_Entry_2017_v2020.csv.gz",
    "padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": (
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    ),
    "CheXpert-v1.0-small/train.csv": "chexpert_train.csv.gz",
}
REPORTS = "NLMCXR_reports.tgz"


def unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name, member in TABLES.items():
            path = folder / name
            path.parent.mkdir()
            path.write_bytes(gzip.decompress(archive.read(f"torchxrayvision/data/{member}")))
        packed = io.BytesIO(archive.read(f"torchxrayvision/data/{REPORTS}"))
        with tarfile.open(fileobj=packed) as reports:
            reports.extractall(folder / "openi", filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True)
    options = parser.parse_args()
    read = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(options.wheel, folder)
        for root in sorted(folder.iterdir()):
            source = open_source(root, on_bad_row="count")
            begin = time.perf_counter()
            with patch.object(Path, "is_file", return_value=True):
                counted = statistics_of(source)
            read[source.name.split()[0]] = {
                "studies": counted.studies,
                "patients": counted.patients,
                "examinations": counted.examinations,
                "views": dict(counted.views),
                "bad rows": len(source.problems),
                "reasons": sorted({problem.reason for problem in source.problems}),
                "seconds": round(time.perf_counter() - begin, 1),
            }
    print(json.dumps(read, indent=1))


if __name__ == "__main__":
    main()
