"""Small made-up copies of corpora: file names and columns as the real releases have them."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unix_cxr.vocabulary import FINDINGS

MIMIC_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
    "Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
# the tables of MIMIC-CXR-JPG state the labels in the order of the alphabet
MIMIC_LABELS = sorted(FINDINGS)
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
CHEXPERT_COLUMNS = (
    "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Enlarged Cardiomediastinum",
    "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
CHEXPERT_PLUS_COLUMNS = (
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id",
    "patient_report_date_order", "report", "section_narrative", "section_clinical_history",
    "section_history", "section_comparison", "section_technique", "section_procedure_comments",
    "section_findings", "section_impression", "section_end_of_impression", "section_summary",
    "section_accession_number", "age", "sex", "race", "ethnicity", "interpreter_needed",
    "insurance_type", "recent_bmi", "deceased", "split",
)  # fmt: skip
PADCHEST_COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth",
    "PatientSex_DICOM", "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric",
    "Modality_DICOM", "Manufacturer_DICOM", "PhotometricInterpretation_DICOM",
    "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM", "SpatialResolution_DICOM",
    "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM",
    "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
OPENI_XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{number}"/>
   <pmcId id="{number}"/>
   <MedlineCitation Owner="Indiana University"><Article><Abstract>
      <AbstractText Label="COMPARISON">None.</AbstractText>
      <AbstractText Label="INDICATION">Cough</AbstractText>
      <AbstractText Label="FINDINGS">{findings}</AbstractText>
      <AbstractText Label="IMPRESSION">{impression}</AbstractText>
   </Abstract></Article></MedlineCitation>
   <MeSH>{headings}</MeSH>
   {images}
</eCitation>
"""


def picture(seed: int = 0, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """A grey picture with structure, another for each seed; height and width."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((6, 6), dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return Image.fromarray((np.clip(np.asarray(smooth), 0, 1) * 255).astype(np.uint8))


def write_picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)
    return path


def write_csv(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, packed: bool = False
) -> Path:
    """A CSV table, gzipped where `packed`; columns that a row does not give are blank."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return path


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 COMPARISON:  None.

 FINDINGS: 

 There is no focal consolidation.
 The heart is normal.

 IMPRESSION: 

 No acute cardiopulmonary process.
"""  # noqa: W291 - as the files have it


def mimic(root: Path, *, suffix: str = ".jpg") -> Path:
    """Two patients, three studies, four images; a second study without labels."""
    images = [
        ("aa-01", 10000032, 50414267, "PA", "train"),
        ("aa-02", 10000032, 50414267, "LATERAL", "train"),
        ("bb-01", 10000032, 53189527, "AP AXIAL", "train"),
        ("cc-01", 10000764, 57375967, "AP", "validate"),
    ]
    ids = ("dicom_id", "subject_id", "study_id", "ViewPosition", "split")
    rows = [dict(zip(ids, row, strict=True)) for row in images]
    for number, row in enumerate(rows):
        folder = root / f"files/p10/p{row['subject_id']}"
        image = folder / f"s{row['study_id']}" / f"{row['dicom_id']}{suffix}"
        if suffix == ".jpg":
            write_picture(image, number)
        else:
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"only its place is read here")
        report = REPORT if row["study_id"] != 53189527 else " FINAL REPORT\n Tube in place.\n"
        (folder / f"s{row['study_id']}.txt").write_text(report, encoding="utf-8")
    shown = [{name: row[name] for name in ids[:4]} for row in rows]
    write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", MIMIC_METADATA, shown, packed=True)
    split_columns = ("dicom_id", "study_id", "subject_id", "split")
    split_rows = [{name: row[name] for name in split_columns} for row in rows]
    write_csv(root / "mimic-cxr-2.0.0-split.csv.gz", split_columns, split_rows, packed=True)
    labels = [
        {"subject_id": 10000032, "study_id": 50414267, "Edema": "1.0", "Pneumonia": "0.0",
         "Atelectasis": "-1.0"},
        {"subject_id": 10000764, "study_id": 57375967, "No Finding": "1.0"},
    ]  # fmt: skip
    # the two labelers differ, and the tables show who read which
    for labeler, edema in (("chexpert", "1.0"), ("negbio", "0.0")):
        path = root / f"mimic-cxr-2.0.0-{labeler}.csv.gz"
        labels[0]["Edema"] = edema
        write_csv(path, ("subject_id", "study_id", *MIMIC_LABELS), labels, packed=True)
    return root


def nih(root: Path) -> Path:
    rows = (
        "00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA,2682,2749,0.143,0.143",
        "00000001_001.png,No Finding,1,1,058Y,M,AP,2894,2729,0.143,0.143",
        "00000013_000.png,Hernia,0,13,60,F,PA,2500,2048,0.168,0.168",
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "Data_Entry_2017_v2020.csv").write_text(
        "\n".join([NIH_HEADER, *rows]) + "\n", encoding="utf-8"
    )
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n", "utf-8")
    (root / "test_list.txt").write_text("00000013_000.png\n", encoding="utf-8")
    write_picture(root / "images_001/images/00000001_000.png", 1)
    write_picture(root / "images_001/images/00000001_001.png", 2)
    write_picture(root / "images_002/images/00000013_000.png", 3)
    return root


def chexpert(root: Path) -> Path:
    """CheXpert-v1.0-small: paths in its tables begin with its own name."""
    paths = {
        "train.csv": ("train/patient00001/study1/view1_frontal.jpg",
                      "train/patient00002/study2/view2_lateral.jpg"),
        "valid.csv": ("valid/patient64541/study1/view1_frontal.jpg",),
    }  # fmt: skip
    facts = [
        {"Sex": "Female", "Age": 68, "Frontal/Lateral": "Frontal", "AP/PA": "AP",
         "No Finding": "1.0", "Pneumothorax": "0.0", "Edema": "-1.0"},
        {"Sex": "Unknown", "Age": 0, "Frontal/Lateral": "Lateral"},
        {"Sex": "Male", "Age": 73, "Frontal/Lateral": "Frontal", "AP/PA": "LL", "Fracture": "1.0"},
    ]  # fmt: skip
    number = 0
    for table, names in paths.items():
        rows = []
        for name in names:
            write_picture(root / name, number)
            rows.append({"Path": f"CheXpert-v1.0-small/{name}", **facts[number]})
            number += 1
        write_csv(root / table, CHEXPERT_COLUMNS, rows)
    return root


def chexpert_plus(root: Path) -> Path:
    rows = [
        {"path_to_image": "train/patient42142/study5/view1_frontal.jpg", "ap_pa": "PA",
         "path_to_dcm": "train/patient42142/study5/view1_frontal.dcm",
         "frontal_lateral": "Frontal", "deid_patient_id": "patient42142", "age": "66.0",
         "sex": "Female", "split": "train", "section_findings": "Two lines,\nof findings.",
         "section_impression": "1. Stable.", "report": "NARRATIVE:\nTwo lines,\nof findings."},
        {"path_to_image": "valid/patient64541/study1/view1_lateral.jpg",
         "frontal_lateral": "Lateral", "deid_patient_id": "patient64541", "age": "73.0",
         "sex": "Male", "split": "valid", "section_impression": "Clear."},
    ]  # fmt: skip
    write_csv(root / "df_chexpert_plus_240401.csv", CHEXPERT_PLUS_COLUMNS, rows)
    labels = [
        {"path_to_image": rows[0]["path_to_image"], **dict.fromkeys(FINDINGS), "Edema": 1.0,
         "Fracture": 0.0, "Pneumonia": -1.0},
        {"path_to_image": rows[1]["path_to_image"], **dict.fromkeys(FINDINGS), "No Finding": 1.0},
    ]  # fmt: skip
    for row in rows:
        write_picture((root / "PNG" / row["path_to_image"]).with_suffix(".png"))
    (root / "chexbert_labels").mkdir()
    for kind, edema in (("report", 1.0), ("findings", 0.0), ("impression", -1.0)):
        path = root / "chexbert_labels" / f"{kind}_fixed.json"
        labels[0]["Edema"] = edema
        path.write_text("\n".join(map(json.dumps, labels)) + "\n", encoding="utf-8")
    return root


def openi_report(number: int, images: Sequence[str], **texts: str) -> str:
    headings = "".join(f"<major>{name}</major>" for name in ("Cardiomegaly/mild", " normal "))
    tags = "".join(
        f'<parentImage id="{name}"><figureId>F1</figureId>'
        "<caption>Xray Chest PA and Lateral</caption></parentImage>"
        for name in images
    )
    values = {"findings": "Clear lungs.", "impression": "Normal."} | texts
    return OPENI_XML.format(number=number, headings=headings, images=tags, **values)


def openi(root: Path) -> Path:
    reports = {
        1: ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"),
        2: ("CXR2_IM-0652-1001",),
        10: ("CXR10_IM-0002-1001",),
    }
    (root / "ecgen-radiology").mkdir(parents=True)
    for number, images in reports.items():
        path = root / f"ecgen-radiology/{number}.xml"
        path.write_text(openi_report(number, images), encoding="utf-8")
        for image in images:
            write_picture(root / f"NLMCXR_png/{image}.png", number)
    return root


def padchest(root: Path) -> Path:
    rows = [
        {"": 0, "ImageID": "2053_k6ga29.png", "ImageDir": 0, "StudyDate_DICOM": 20140915,
         "StudyID": "2053", "PatientID": "839", "PatientBirth": "1930.0", "PatientSex_DICOM": "F",
         "Projection": "PA", "Labels": "['normal', ' hiatal hernia']",
         "Report": " sin hallazg patolog ."},
        {"": 1, "ImageID": "1358_fzis7d.png", "ImageDir": 12, "StudyDate_DICOM": 20150914,
         "StudyID": "1358", "PatientID": "313", "PatientBirth": "", "PatientSex_DICOM": "O",
         "Projection": "AP_horizontal", "Labels": "nan", "Report": ""},
        {"": 2, "ImageID": "1358_x.png", "ImageDir": 12, "StudyDate_DICOM": 20150914,
         "StudyID": "1358", "PatientID": "313", "PatientBirth": "1950.0", "PatientSex_DICOM": "M",
         "Projection": "COSTAL", "Labels": "[]", "Report": ""},
    ]  # fmt: skip
    for number, row in enumerate(rows):
        write_picture(root / str(row["ImageDir"]) / str(row["ImageID"]), number)
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    write_csv(root / name, PADCHEST_COLUMNS, rows, packed=True)
    return root


FOLDER_ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "patient_id": "p1", "view": "AP", "split": "train", "labels": "Mass|Edema",
     "findings": "A mass.", "sex": "F", "age": "70"},
    {"image": "b.png", "patient_id": "p2", "view": "LL", "split": "validation", "labels": ""},
    {"image": "c.png", "patient_id": "p3", "view": "", "split": "", "labels": "Normal"},
]  # fmt: skip
FOLDER_COLUMNS = ("image", "patient_id", "view", "split", "labels", "findings", "sex", "age")


def folder(root: Path, suffix: str = ".csv", rows: Sequence[dict[str, Any]] = FOLDER_ROWS) -> Path:
    """A table of any kind beside its images."""
    root.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        write_picture(root / row["image"], number)
    full = [{name: row.get(name, "") for name in FOLDER_COLUMNS} for row in rows]
    path = root / f"metadata{suffix}"
    if suffix == ".csv":
        write_csv(path, FOLDER_COLUMNS, full)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, full)) + "\n", encoding="utf-8")
    else:
        write_parquet(path, full)
    return root


def write_parquet(
    path: Path, rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any] | None = None
) -> Path:
    """A parquet file, with the features that `datasets` writes into its schema."""
    import pyarrow as pa
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    if features is not None:
        noted = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": noted})
    parquet.write_table(table, path)
    return path


def png_bytes(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, format="PNG")
    return buffer.getvalue()


def hugging_face(root: Path) -> Path:
    """Parquet files as a repository of the hub has them: images as bytes and path, two splits."""
    rows = [
        {"image": {"bytes": png_bytes(number), "path": f"{number}.png"}, "patient_id": f"p{number}",
         "findings": f"Text {number}.", "labels": ["Edema"] if number else []}
        for number in range(3)
    ]  # fmt: skip
    text = {"dtype": "string", "_type": "Value"}
    features = {
        "image": {"_type": "Image"}, "patient_id": text, "findings": text,
        "labels": {"feature": text, "_type": "List"},
    }  # fmt: skip
    write_parquet(root / "data/train-00000-of-00001.parquet", rows[:2], features)
    write_parquet(root / "data/validation-00000-of-00001.parquet", rows[2:], features)
    return root


def webdataset(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        with tarfile.open(root / f"shard-{number:06}.tar", "w") as archive:
            for sample in range(2):
                key = f"{number}{sample}"
                facts = {"patient_id": f"p{key}", "view": "AP", "labels": ["Edema"]}
                add_member(archive, f"{key}.png", png_bytes(sample))
                add_member(archive, f"{key}.json", json.dumps(facts).encode())
                add_member(archive, f"{key}.txt", f"Report {key}.".encode())
    return root


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


LAYOUTS = {
    "mimic": mimic, "nih": nih, "chexpert": chexpert, "chexpert-plus": chexpert_plus,
    "openi": openi, "padchest": padchest, "folder": folder, "webdataset": webdataset,
}  # fmt: skip
