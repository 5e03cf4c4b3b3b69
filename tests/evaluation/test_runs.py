"""Whole runs on made-up X-rays and texts: suites, folders, pages, commands, processes."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from tests.evaluation.phantoms import TINY, phantoms
from tests.processes import run_processes, starter
from unix_cxr.cli.evaluate import compare, evaluate_app
from unix_cxr.cli.evaluate_options import feature_extractor
from unix_cxr.evaluation import run_folders
from unix_cxr.evaluation.classifier import XrayClassifier
from unix_cxr.evaluation.compare_runs import compare_runs
from unix_cxr.evaluation.contact_sheet import to_pil
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.extractors import ClassifierExtractor
from unix_cxr.evaluation.imaging.features import Extraction
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.imaging.suite import ImageOptions, Judges, evaluate_images
from unix_cxr.evaluation.page.charts import Bar, Point, bar_chart, curve_chart
from unix_cxr.evaluation.page.markdown import markdown_table
from unix_cxr.evaluation.page.pages import render_page, short
from unix_cxr.evaluation.page.sections import image_sections
from unix_cxr.evaluation.plugins import installed_metrics
from unix_cxr.evaluation.protocols import STRICT
from unix_cxr.evaluation.reading.use_network import NetworkTraining
from unix_cxr.evaluation.results import MetricUnavailable, Skipped
from unix_cxr.evaluation.run_folders import Run, read_run, write_run

OPTIONS = ImageOptions(
    resampling=Resampling(20),
    extraction=Extraction(16, progress=False),
    heavy_replicates=4,
    pairs=4,
    use_network=NetworkTraining(steps=4, batch_size=8, size=32, widths=(8,), progress=False),
    ceiling="all",
)
app = typer.Typer(pretty_exceptions_enable=False)
app.add_typer(evaluate_app, name="evaluate")
app.command()(compare)


def make_set(folder, name, count, seed, copies=None):
    folder = folder / name
    folder.mkdir(parents=True)
    xrays = phantoms(count, name, seed)
    images = xrays.images if copies is None else copies
    files = []
    for row, image in enumerate(images):
        path = folder / f"{row}.png"
        to_pil(image).save(path)
        label = "Pneumonia" if xrays.pneumonia[row] else "Normal"
        text = f"{label} number {row % 3}."
        files.append(ImageFile(path.name, path, f"{name}{row}", frozenset({label}), text))
    return ImageSet(name, tuple(files))


class Brightness:
    """A scorer that believes in nothing but grey values."""

    name, comparable = "brightness", False

    def facts(self):
        return {"scorer": self.name}

    def __call__(self, images, texts):
        return torch.tensor(
            [float(image.mean()) * len(text) for image, text in zip(images, texts, strict=True)]
        )


class SamePixels:
    """A re-identification network that compares pixels."""

    name = "pixels"

    def __call__(self, first, second):
        pairs = zip(first, second, strict=True)
        return torch.stack([-(a - b).abs().mean() for a, b in pairs])


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    train = make_set(folder, "train", 40, 0)
    real = make_set(folder, "real", 30, 1)
    copies = torch.stack([image.load() for image in train.images[:6]])
    fresh = phantoms(24, "drawn", 2).images
    generator = torch.Generator().manual_seed(3)
    planted = torch.stack(
        [
            copies[0],
            copies[1].roll(2, -1),
            (0.8 * copies[2] + 0.1),
            (copies[3] + 0.02 * torch.randn(copies[3].shape, generator=generator)).clamp(0, 1),
        ]
    )
    drawn = make_set(folder, "drawn", 28, 2, torch.cat([planted, fresh]))
    return train, real, drawn


@pytest.fixture(scope="module")
def judges():
    torch.manual_seed(0)
    return Judges(ClassifierExtractor(XrayClassifier(TINY)), Brightness(), [SamePixels()], [])


@pytest.fixture(scope="module")
def evaluation(sets, judges):
    train, real, drawn = sets
    return evaluate_images(real, drawn, judges, train=train, options=OPTIONS)


def test_every_part_is_measured(evaluation):
    names = {result.name for result in evaluation.results}
    wanted = {"fd", "kd", "coverage", "vendi", "ms_ssim", "fd/ceiling", "mifid", "alignment/wins"}
    wanted |= {"near_train/features", "near_train/pixels", "near_train/halves"}
    wanted |= {"near_train/identity/pixels", "auroc/use_network/gain", "near_train/halves/ceiling"}
    wanted |= {"tone/ceiling", "auroc/use_network/drawn/ceiling", "alignment/wins/ceiling"}
    wanted |= {"nearest_ratio", "auroc/use/drawn", "auroc/use/both", "auroc/label_agreement"}
    assert wanted <= names
    assert not evaluation.skipped
    by_name = {result.name: result for result in evaluation.results}
    assert by_name["fd/ceiling"].value < by_name["fd"].value
    # 4 of the drawn are copies; what is half of `train` in their place is none
    assert by_name["near_train/pixels/ceiling"].value < by_name["near_train/pixels"].value
    for result in evaluation.results:
        assert "unix_cxr:" in result.signature, result.name


def test_planted_copies_are_found_also_shifted_scaled_and_noised(evaluation):
    closest = evaluation.privacy.closest
    assert {(pair.drawn, pair.train) for pair in closest[:4]} == {
        (f"{row}.png", f"{row}.png") for row in range(4)
    }
    assert all(pair.near for pair in closest[:4])
    assert not any(pair.near for pair in closest[5:])
    near = next(r for r in evaluation.results if r.name == "near_train/pixels")
    assert near.value == pytest.approx(4 / 28, abs=0.04)
    exact = next(r for r in evaluation.results if r.name == "nearest_ratio")
    assert exact.per_sample.values[0] < 0.05


def test_without_training_xrays_what_is_missing_is_said(sets, judges):
    _, real, drawn = sets
    options = replace(OPTIONS, use_network=None)
    found = evaluate_images(real, drawn, replace(judges, alignment=None), options=options)
    assert {one.metric for one in found.skipped} == {"privacy", "ceiling", "mifid", "use"}
    assert "--train SRC" in found.skipped[0].remedy
    with pytest.raises(ValueError, match="patients are in train and in train"):
        evaluate_images(sets[0], drawn, judges, train=sets[0], options=OPTIONS)
    few = real.take(range(4))
    with pytest.raises(ValueError, match=r"real holds 4 X-rays; 5 neighbours"):
        evaluate_images(few, drawn, judges, options=options)
    with pytest.raises(ValueError, match="learns from real X-rays too: give them by --train SRC"):
        evaluate_images(real, drawn, judges, options=OPTIONS)


class Blind(ClassifierExtractor):
    def __call__(self, images):
        pytest.fail("an X-ray was looked at")


def test_a_ceiling_that_cannot_be_had_is_refused_before_anything_is_measured(sets):
    torch.manual_seed(0)
    judges = Judges(Blind(XrayClassifier(TINY)), metrics=[])
    train, real, drawn = sets
    options = replace(OPTIONS, use_network=None)
    with pytest.raises(ValueError, match=r"unseen half holds 4 X-rays; 5 neighbours"):
        evaluate_images(real, drawn, judges, train=train.take(range(8)), options=options)
    one = ImageSet("train", tuple(replace(file, group="p") for file in train))
    with pytest.raises(ValueError, match=r"train holds one patient \(p\)"):
        evaluate_images(real, drawn, judges, train=one, options=options)
    unlabelled = ImageSet("train", tuple(replace(file, labels=frozenset()) for file in train))
    with pytest.raises(ValueError, match="a network cannot learn a label"):
        evaluate_images(real, drawn, judges, train=unlabelled, options=OPTIONS)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text):
    page = Page()
    page.feed(text)
    assert not page.open
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "<script" not in text
    return page


def make_run(evaluation):
    return Run(
        "images",
        "Drawn <b>X-rays</b>",
        evaluation.protocol,
        evaluation.results,
        (*evaluation.skipped, Skipped("far", "pip install 'far'")),
        tuple(image_sections(evaluation)),
        {"real": "real"},
    )


def test_a_run_is_written_and_read_again(evaluation, tmp_path):
    written = write_run(tmp_path, make_run(evaluation))
    assert [path.name for path in written] == [
        *("metrics.json", "samples.parquet", "statistics.parquet", "replicates.parquet"),
        "index.html",
    ]
    stored = read_run(tmp_path)
    for result in evaluation.results:
        entry = stored[result.name].entry
        assert entry["value"] == pytest.approx(result.value, nan_ok=True)
        assert entry["signature"] == result.signature
        if result.statistics is not None:
            assert torch.equal(stored[result.name].statistics, result.statistics)
            assert stored[result.name].ids == result.per_sample.ids
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = check_page(text)
    assert len(page.addresses) == 2
    assert "Drawn &lt;b&gt;X-rays&lt;/b&gt;" in text
    assert "pip install &#39;far&#39;" in text
    assert text.count("<svg") == 1
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.json"):
        read_run(tmp_path / "gone")
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a run of format 1"):
        read_run(tmp_path)


def test_the_page_and_the_table_show_the_ceiling_beside_each_number(evaluation, tmp_path):
    write_run(tmp_path, make_run(evaluation))
    by_name = {result.name: result for result in evaluation.results}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for name in ("fd", "near_train/pixels", "auroc/use/drawn", "auroc/use_network/drawn"):
        row = re.search(rf"<tr>(?:(?!</tr>).)*>{re.escape(name)}<.*?</tr>", page, re.DOTALL)[0]
        assert f">{short(by_name[name + '/ceiling'].value)}<" in row, name
    lines = call("evaluate", "table", tmp_path).output.splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert {"fd", "near_train/halves", "auroc/use_network/gain"} <= set(rows)
    own, other = by_name["fd"], by_name["fd/ceiling"]
    cells = [cell.strip() for cell in rows["fd"].strip("|").split("|")]
    assert cells[1] == f"{own.value:.3g} ({own.interval.low:.3g} to {own.interval.high:.3g})"
    assert cells[2].startswith(f"{other.value:.3g} (")
    assert cells[3:] == ["less", "28"]
    some = markdown_table(tmp_path, ["near_train/*"]).splitlines()
    assert len(some) == 4 + 4
    with pytest.raises(ValueError, match=r"no metric of .*metrics\.json fits 'fid'; it holds fd"):
        markdown_table(tmp_path, ["fid"])
    with pytest.raises(FileNotFoundError, match=r"has no metrics\.json"):
        markdown_table(tmp_path / "gone")


def test_without_pyarrow_the_remedy_comes_before_the_work(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(run_folders, "import_module", missing)
    with pytest.raises(MetricUnavailable, match=r"pip install 'unix-cxr\[eval\]'"):
        run_folders.require_parquet()


def test_charts_hold_what_they_are_given_and_escape_it():
    bars = bar_chart("F1", [Bar("<a>", 0.5, 0.4, 0.6), Bar("b", 1.0)], 1.0)
    assert "&lt;a&gt;" in bars
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height', bars)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=1e-3)
    curve = curve_chart("c", [Point(0, 1.0, 0.9, 1.1), Point(1, 0.5)], ("x", "y"))
    assert curve.count("<circle") == 2
    with pytest.raises(ValueError, match="at least one bar"):
        bar_chart("F1", [])
    with pytest.raises(ValueError, match="at least two points, got 1"):
        curve_chart("c", [Point(0, 1)], ("x", "y"))
    check_page(render_page("t", STRICT, [], []))


REFERENCES = [
    "Heart size is normal. No pleural effusion or pneumothorax.",
    "Small left pleural effusion with adjacent atelectasis. Cardiomegaly.",
    "The lungs are clear.",
    "Moderate pulmonary edema.",
] * 5


def write_reports(path, texts):
    lines = [
        json.dumps({"id": f"r{row}", "text": text, "patient_id": f"p{row // 2}"})
        for row, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def call(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture
def report_runs(tmp_path):
    truth = write_reports(tmp_path / "truth.jsonl", REFERENCES)
    good = [text.replace("pleural ", "") for text in REFERENCES]
    bad = ["The lungs are clear.", *["Edema."] * 18, ""]
    folders = []
    for name, texts in (("good", good), ("bad", bad)):
        file = write_reports(tmp_path / f"{name}.jsonl", texts)
        arguments = ("--reference", truth, "--prediction", file, "--out", tmp_path / name)
        found = call("evaluate", "reports", *arguments, "--replicates", 100)
        assert found.exit_code == 0, found.output
        folders.append(tmp_path / name)
    return folders


def test_reports_are_measured_and_compared_by_command(report_runs, tmp_path):
    stored = read_run(report_runs[0])
    assert stored["bleu_4"].groups[:3] == ("p0", "p0", "p1")
    check_page((report_runs[0] / "index.html").read_text(encoding="utf-8"))
    found = call("compare", *report_runs, "--out", tmp_path / "both", "--replicates", 200, "--json")
    tree = {row["name"]: row for row in json.loads(found.output)["metrics"]}
    for name in ("bleu_2", "chrf", "rouge_l", "micro_f1_14/uncertain_positive"):
        assert tree[name]["difference"] > 0, name
        assert tree[name]["significant"], name
        assert tree[name]["a"] - tree[name]["b"] == pytest.approx(tree[name]["difference"]), name
        assert "randomisation by patient" in tree[name]["test"]
    check_page((tmp_path / "both/index.html").read_text(encoding="utf-8"))
    same = {one.name: one for one in compare_runs(report_runs[0], report_runs[0])}
    assert same["bleu_4"].difference.p_value == 1


def test_what_was_measured_differently_is_not_compared(report_runs):
    path = report_runs[1] / "metrics.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("tokenizer:13a", "tokenizer:intl"), encoding="utf-8")
    found = {one.name: one for one in compare_runs(*report_runs)}
    assert found["bleu_1"].difference is None
    assert found["bleu_1"].reason == "measured differently: tokenizer 13a and intl"
    assert found["chrf"].difference is not None
    path.write_text(re.sub("against:[0-9a-f]+", "against:0", text), encoding="utf-8")
    other = {one.name: one for one in compare_runs(*report_runs)}
    assert "measured differently: against" in other["chrf"].reason


def test_runs_without_common_metrics_are_refused(report_runs, evaluation, tmp_path):
    write_run(tmp_path / "images", make_run(evaluation))
    with pytest.raises(ValueError, match="no metric in common"):
        compare_runs(report_runs[0], tmp_path / "images")


def test_images_are_compared_by_replicates(evaluation, tmp_path):
    write_run(tmp_path / "a", make_run(evaluation))
    found = {one.name: one for one in compare_runs(tmp_path / "a", tmp_path / "a")}
    assert found["fd"].difference.value == 0
    assert "bootstrap" in found["fd"].difference.test
    assert found["precision"].difference.p_value == 1
    assert found["mifid"].reason == "no replicates were kept"


@pytest.mark.slow
def test_images_are_measured_by_command_and_the_run_goes_on(sets, tmp_path):
    _, real, drawn = sets
    folder = tmp_path / "classifier"
    torch.manual_seed(0)
    XrayClassifier(TINY).save_pretrained(folder)
    sources = [Path(str(one.images[0].image)).parent for one in (real, drawn)]
    arguments = [
        *("evaluate", "images", "--real", sources[0], "--synthetic", sources[1]),
        *("--out", tmp_path / "run", "--extractor", f"classifier={folder}", "--limit", 20),
        *("--replicates", 10, "--heavy-replicates", 2, "--json"),
    ]
    first = call(*arguments)
    assert first.exit_code == 0, first.output
    tree = json.loads(first.output.splitlines()[-1])
    assert tree["metrics"]["coverage"] is not None
    assert "privacy" in tree["skipped"]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "run/cache").rglob("*.safetensors")}
    assert kept
    again = json.loads(call(*arguments).output.splitlines()[-1])
    assert again["metrics"] == tree["metrics"]
    assert kept == {p: p.stat().st_mtime_ns for p in kept}


def test_errors_of_the_commands_name_the_remedy(tmp_path):
    images = ("evaluate", "images", "--real", tmp_path, "--synthetic", tmp_path)
    found = call(*images, "--out", tmp_path, "--on-missing", "maybe")
    assert found.exit_code == 2
    assert "'maybe' is not one of 'skip'" in found.output
    for spec in ("classifier=", "=folder", ""):
        with pytest.raises(ValueError, match=rf"--extractor \('{spec}'\) must be rad-dino=FOLDER"):
            feature_extractor(spec, "cpu")
    truth = write_reports(tmp_path / "t.jsonl", REFERENCES)
    with pytest.raises(ValueError, match="given together"):
        call(
            *("evaluate", "reports", "--reference", truth, "--prediction", truth),
            *("--out", tmp_path, "--chexbert", truth),
        )
    with pytest.raises(MetricUnavailable, match="pip install radeval"):
        call(
            *("evaluate", "reports", "--reference", truth, "--prediction", truth),
            *("--out", tmp_path / "x", "--radeval", "green", "--on-missing", "raise"),
        )
    assert installed_metrics("reports") == []


@pytest.mark.slow
def test_two_processes_equal_one(sets, tmp_path):
    train, real, drawn = sets
    torch.manual_seed(0)
    XrayClassifier(TINY).save_pretrained(tmp_path / "classifier")
    truth = write_reports(tmp_path / "truth.jsonl", REFERENCES[:19])
    file = write_reports(tmp_path / "file.jsonl", [*REFERENCES[3:], "", "Clear.", "Edema."][:19])
    script = Path(__file__).parent / "measure_in_processes.py"
    sources = [str(Path(str(one.images[0].image)).parent) for one in (real, drawn, train)]
    outcomes = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        command = [*starter(processes), str(script), *sources]
        command += [str(tmp_path / "classifier"), str(truth), str(file), str(out)]
        run_processes(command, PYTHONPATH=str(Path(__file__).resolve().parents[2]))
        outcomes.append(json.loads(out.read_text(encoding="utf-8")))
    assert outcomes[0]["processes"] == 1
    assert outcomes[1]["processes"] == 2
    assert outcomes[1]["looked_at"] < outcomes[0]["looked_at"]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]
    assert len(outcomes[0]["metrics"]) > 20
