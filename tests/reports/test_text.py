"""Characters, lines, sections, sentences and private details."""

import subprocess
import sys

import pytest

from unix_cxr.reports.cleaner import ReportCleaner
from unix_cxr.reports.intake import refusal
from unix_cxr.reports.leftovers import leftovers
from unix_cxr.reports.normalise import join_lines, normalise_characters, quiet_capitals
from unix_cxr.reports.presidio import PresidioStep
from unix_cxr.reports.privacy import mask
from unix_cxr.reports.records import Status
from unix_cxr.reports.sections import ALIASES, split_sections
from unix_cxr.reports.sentences import split_sentences


def test_reports_import_without_torch():
    code = (
        "import sys, pkgutil, importlib, unix_cxr.reports as r\n"
        "for m in pkgutil.walk_packages(r.__path__, 'unix_cxr.reports.'):\n"
        "    importlib.import_module(m.name)\n"
        "import unix_cxr.cli.clean; from unix_cxr import ReportCleaner; ReportCleaner().clean('x')\n"  # noqa: E501 - data
        "print(*sorted({'torch', 'transformers', 'numpy.f2py'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\u2019s \u201cb\u201d \u2013 c\u00a0d", 'a\'s "b" - c d'),
        ("no\x00 effu\u00adsion\x07", "no effusion"),
        ("don\u00e2\u20ac\u2122t", "don't"),
        ("2\u00d73 cm", "2x3 cm"),
        (
            "XXXX and xxxxx and ___ and [**2110-3-4**] and <date> and ****",
            "___ and ___ and ___ and ___ and ___ and ___",
        ),
        ("XXXX XXXX XXXX", "___"),
        ("clear&nbsp;lungs<br/>no effusion", "clear lungs\nno effusion"),
        ("x-XXXX", "x-___"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("20\u00b0 and 5\u00b2", "20\u00b0 and 5\u00b2"),
    ],
)
def test_characters(raw, clean):
    assert normalise_characters(raw) == clean
    assert normalise_characters(clean) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("There is a large left pleural\neffusion.", "There is a large left pleural effusion."),
        ("1. Clear\n2. No effusion", "1. Clear\n2. No effusion"),
        ("Heart is normal.Lungs are clear.", "Heart is normal. Lungs are clear."),
        (
            "The lungs are clear and the heart is of\n4.5 cm.",
            "The lungs are clear and the heart is of 4.5 cm.",
        ),
        ("a  b\t c .", "a b c."),
        ("Clear..  .", "Clear."),
    ],
)
def test_lines(raw, clean):
    assert join_lines(raw) == clean


def test_capitals():
    assert (
        quiet_capitals("ET TUBE ABOVE THE CARINA. NO COPD.") == "ET tube above the carina. No COPD."
    )
    assert quiet_capitals("PICC in the SVC.") == "PICC in the SVC."


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mass of 4.5 cm. Clear.", ["Mass of 4.5 cm.", "Clear."]),
        ("Seen by Dr. Lee. Clear.", ["Seen by Dr. Lee.", "Clear."]),
        ("1. Right PICC. 2. No effusion.", ["Right PICC.", "No effusion."]),
        ("Fracture of T12. No effusion.", ["Fracture of T12.", "No effusion."]),
        ("The nodule measures 4. The heart is normal.", ["The nodule measures 4.", "The heart is normal."]),  # noqa: E501 - data
        ("Approx. 3 cm, i.e. small. Clear!", ["Approx. 3 cm, i.e. small.", "Clear!"]),
        ("(1) Clear\n- No effusion", ["Clear", "No effusion"]),
        ("Tube at 3 p.m. in place. Is it? Yes.", ["Tube at 3 p.m. in place.", "Is it?", "Yes."]),
        ("", []),
        (" . ; \n", []),
    ],
)  # fmt: skip
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_splitting_is_linear():
    """A megabyte without a space or with nothing but stops ends soon."""
    assert len(split_sentences("No effusion. " * 80_000)) == 80_000
    assert split_sentences("." * 1_000_000) == []


def kinds(text):
    return [(section.kind, section.body.strip()) for section in split_sections(text)]


def test_every_alias_opens_its_section():
    for kind, names in ALIASES.items():
        for name in names:
            if name != "final report":
                assert (kind, "Clear.") in kinds(f"{name.upper()}: Clear."), name
                assert (kind, "Clear.") in kinds(f"Lungs.\n{name.capitalize()}:\nClear."), name


def test_sections_without_colons_and_merged():
    assert kinds("FINDINGS\nClear.\nIMPRESSION\nNormal.") == [
        ("findings", "Clear."),
        ("impression", "Normal."),
    ]
    assert kinds("FINDINGS Clear lungs.") == [("findings", "Clear lungs.")]
    assert kinds("FINDINGS AND IMPRESSION: Clear.") == [("findings", "Clear.")]
    assert kinds("Findings: Clear. Impression: Normal.") == [
        ("findings", "Clear."),
        ("impression", "Normal."),
    ]
    assert kinds("PA AND LATERAL CHEST: Clear.") == [("findings", "Clear.")]
    assert kinds("Lungs: clear. Heart: normal.") == [("preamble", "Lungs: clear. Heart: normal.")]
    assert kinds("The finding was seen at 9:14.") == [("preamble", "The finding was seen at 9:14.")]


def test_several_reports_in_one_text():
    text = (
        "EXAMINATION: CHEST\nFINDINGS: Clear lungs.\nIMPRESSION: Normal chest.\n"
        "EXAMINATION: ABDOMEN\nFINDINGS: Dilated loops.\nIMPRESSION: Ileus."
    )
    report = ReportCleaner().clean(text)
    assert (report.findings, report.impression) == ("Clear lungs.", "Normal chest.")
    assert {item.rule for item in report.removed} >= {"section.other-body-part"}


@pytest.mark.parametrize(
    ("text", "masked", "counts"),
    [
        ("on 3/4/2011 at 9:30 pm", "on ___ at ___", {"date": 1, "time": 1}),
        ("2011-03-04 and March 4, 2011 and 4 Mar 2011", "___ and ___ and ___", {"date": 3}),
        ("Call 617-555-0134.", "Call ___.", {"phone": 1}),
        ("MRN: 1234567", "MRN: ___", {"number": 1}),
        ("Dr. John Miller and Mrs. Roe", "Dr. ___ and Mrs. ___", {"name": 2}),
        ("Dr. Brown. No effusion.", "Dr. ___. No effusion.", {"name": 1}),
        ("Jane Roe, MD", "___, MD", {"name": 1}),
        ("T11/12, 4.5 cm, 3.5 x 2.1 cm, 12 mm, L1-2, 5/6 ribs", None, {}),
        ("There may 3 nodules. 3 ribs. 100 mm. No. 5 rib.", None, {}),
    ],
)
def test_private_details(text, masked, counts):
    assert mask(text) == (text if masked is None else masked, counts)


def test_masks_are_counted_in_the_report():
    report = ReportCleaner().clean("Effusion on 3/4/2011. MRN 1234567.")
    assert report.masked == {"date": 1, "number": 1}
    assert "1234567" not in report.to_json("x")


class Found:
    start, end, score, entity_type = 8, 18, 0.9, "PERSON"


class Analyzer:
    def analyze(self, *, text, entities, language):
        return [Found()] if "John Smith" in text else []


def test_presidio_adapter():
    step = PresidioStep(Analyzer())
    assert step.mask("Seen by John Smith.") == ("Seen by ___.", {"person": 1})
    report = ReportCleaner(first_steps=[step]).clean("Seen by John Smith. Clear lungs.")
    assert report.masked == {"person": 1}
    assert "Smith" not in report.to_json("x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<html>Clear</html>", "html"),
        ("{\\rtf1 Clear}", "rtf"),
        (
            "Les poumons sont clairs et il n'y a pas d'épanchement dans la plèvre.",
            "language: not English",
        ),
        ("両側肺野に異常陰影を認めません。心拡大なし。胸水なし。", "language: not English"),
        ("Sin derrame pleural ni neumotórax en la radiografía del tórax.", "language: not English"),
        ("x" * 200_000, "too long: 200000 characters, at most 20000"),
        ("No pleural effusion or pneumothorax.", ""),
        ("PICC tip SVC.", ""),
        ("Heart < 50 % of the thorax.", ""),
    ],
)
def test_refusals(text, reason):
    assert refusal(text) == reason


def test_cleaning_needs_a_string():
    with pytest.raises(TypeError, match="must be a str, not NoneType"):
        ReportCleaner().clean(None)


def test_leftovers_and_their_exempt_contexts():
    assert leftovers("Status post prior CABG. Degenerative changes. Increased markings.") == {}
    assert leftovers("Stable. Previous film. Dr. X. ___.") == {
        "prior": ["Previous"], "change": ["Stable"], "communication": ["Dr"], "placeholder": ["___"],  # noqa: E501 - data
    }  # fmt: skip


def test_status_and_reasons():
    cleaner = ReportCleaner()
    assert cleaner.clean("").reason == "no text"
    assert cleaner.clean("TECHNIQUE: AP.").reason == "no findings or impression"
    assert cleaner.clean("FINDINGS: No change.").reason.startswith("nothing but comparison")
    assert [report.status for report in cleaner.map(["Clear.", "<p>x</p>"])] == [
        Status.CLEAN,
        Status.QUARANTINED,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "A.\nF\u0131nd\u0131ngs\nClear lungs.",  # `re` takes them for capitals
        "Clear.\nHi\u017ftory\nCough.",
        "Two screws. EXAMINATION: Left knee.",  # text before a header of another body part
    ],
)
def test_odd_headers_raise_nothing(text):
    assert ReportCleaner().clean(text).status in {Status.CLEAN, Status.EMPTY}
