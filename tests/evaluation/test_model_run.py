"""A tiny model measured whole: what it draws and writes is kept, each X-ray has its own seed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

from tests.evaluation.phantoms import phantoms
from tests.pipelines.conftest import build_pipeline
from unix_cxr.evaluation.corpus_metric import Resampling
from unix_cxr.evaluation.imaging.extractors import VisionTowerExtractor
from unix_cxr.evaluation.imaging.features import Extraction
from unix_cxr.evaluation.imaging.image_sets import ImageFile, ImageSet
from unix_cxr.evaluation.imaging.suite import ImageOptions
from unix_cxr.evaluation.model_run import ModelOptions, draw_texts, measure_model, write_reports
from unix_cxr.evaluation.reading.alignment import (
    DualEncoderScorer,
    LikelihoodScorer,
    measure_alignment,
    partners,
    score_pairs,
)
from unix_cxr.evaluation.reading.understanding import Statements, usual_statements, zero_shot
from unix_cxr.evaluation.results import MetricUnavailable
from unix_cxr.evaluation.run_folders import write_run
from unix_cxr.pipelines.batch import DrawingOptions

TEXTS = {False: "No pneumonia.", True: "Bacterial pneumonia."}


def image_set(prefix, count=14, size=48):
    xrays = phantoms(count, prefix, size=size)
    return ImageSet(
        prefix,
        tuple(
            ImageFile(
                f"{prefix}{row}",
                xrays.images[row, 0].numpy(),
                f"{prefix}{row}",
                frozenset({"Pneumonia" if ill else "Normal"}),
                TEXTS[ill],
            )
            for row, ill in enumerate(xrays.pneumonia.tolist())
        ),
    )


@pytest.fixture(scope="module")
def pipeline():
    made = build_pipeline()
    made.model_id = "tiny"
    return made


@pytest.fixture(scope="module")
def data():
    return image_set("d")


OPTIONS = ModelOptions(
    images=ImageOptions(
        resampling=Resampling(10),
        extraction=Extraction(8, progress=False),
        heavy_replicates=2,
        pairs=2,
    ),
    drawing=DrawingOptions(seed=5, steps=2, batch_size=4),
    batch_size=4,
    max_new_tokens=6,
    ratios=(0.0, 0.5),
)


def read(path):
    with Image.open(path) as file:
        return np.asarray(file), json.loads(file.info["unix_cxr"])


def test_each_xray_has_its_own_seed_and_is_drawn_once(pipeline, data, tmp_path):
    drawn = draw_texts(pipeline, data, tmp_path, OPTIONS.drawing)
    pixels = [read(image.image)[0] for image in drawn]
    assert len({array.tobytes() for array in pixels}) == len(data)
    facts = [read(image.image)[1] for image in drawn]
    assert [fact["seed"] for fact in facts] == list(range(5, 5 + len(data)))
    assert all("prompt" not in fact for fact in facts)
    assert drawn.images[1].labels == data.images[1].labels
    alone = pipeline([data.images[3].text], seed=8, num_inference_steps=2).images[0]
    assert np.abs(np.asarray(alone).astype(int) - pixels[3].astype(int)).max() <= 1

    times = {image.image: image.image.stat().st_mtime_ns for image in drawn}
    draw_texts(pipeline, data, tmp_path, OPTIONS.drawing)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    other = [
        replace(one, text="Viral pneumonia.") if row == 2 else one for row, one in enumerate(data)
    ]
    draw_texts(pipeline, ImageSet("d", tuple(other)), tmp_path, OPTIONS.drawing)
    changed = [path.name for path in times if path.stat().st_mtime_ns != times[path]]
    assert changed == ["000002.png"]


def test_reports_are_written_once(pipeline, data, tmp_path):
    path = tmp_path / "predictions.jsonl"
    first = write_reports(pipeline, data, path, OPTIONS)
    assert set(first) == set(data.ids)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:5]) + "\n", encoding="utf-8")
    assert write_reports(pipeline, data, path, OPTIONS) == first
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(data)
    # killed in the middle of a line, and of a letter
    path.write_bytes("\n".join([*lines[:5], '{"id": "d9", "text": "é']).encode()[:-1])
    assert write_reports(pipeline, data, path, OPTIONS) == first
    assert path.read_text(encoding="utf-8", errors="replace").splitlines()[:5] == lines[:5]
    path.write_text('{"image": "a", "report": "b"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"predictions\.jsonl holds .* no report of ours; use"):
        write_reports(pipeline, data, path, OPTIONS)


def test_what_other_weights_made_is_made_again(data, tmp_path):
    made = build_pipeline()
    few = data.take(range(5))
    drawn = draw_texts(made, few, tmp_path, OPTIONS.drawing)
    reports = write_reports(made, few, tmp_path / "predictions.jsonl", OPTIONS)
    before = LikelihoodScorer(made).facts()
    times = {one.image: one.image.stat().st_mtime_ns for one in drawn}
    with torch.no_grad():
        made.model.vision.post_layernorm.bias.add_(3.0)  # the tower reads otherwise
    assert LikelihoodScorer(made).facts() != before
    draw_texts(made, few, tmp_path, OPTIONS.drawing)
    assert all(path.stat().st_mtime_ns > then for path, then in times.items())
    again = write_reports(made, few, tmp_path / "predictions.jsonl", OPTIONS)
    assert again != reports
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(few.ids)
    longer = replace(OPTIONS, max_new_tokens=9)
    write_reports(made, few, tmp_path / "predictions.jsonl", longer)
    assert len((tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()) == len(few)


def test_a_batch_of_which_one_is_missing_is_drawn_whole(pipeline, data, tmp_path, monkeypatch):
    """What stands beside an X-ray in its batch may change it by a grey level."""
    draw, sizes = type(pipeline).__call__, []

    def counting(self, prompts, **settings):
        sizes.append(len(prompts))
        return draw(self, prompts, **settings)

    monkeypatch.setattr(type(pipeline), "__call__", counting)
    drawn = draw_texts(pipeline, data, tmp_path, OPTIONS.drawing)
    assert sizes == [4, 4, 4, 2]
    bytes_before = {one.image: one.image.read_bytes() for one in drawn}
    for row in (5, 13):
        drawn.images[row].image.unlink()
    sizes.clear()
    draw_texts(pipeline, data, tmp_path, OPTIONS.drawing)
    assert sizes == [4, 2]
    assert bytes_before == {one.image: one.image.read_bytes() for one in drawn}


def test_scores_are_kept(data, tmp_path):
    calls = []

    def scorer(images, texts):
        calls.append(len(images))
        return torch.tensor(
            [image.mean() + len(text) for image, text in zip(images, texts, strict=True)]
        )

    texts = [one.text for one in data]
    first = score_pairs(data.images, texts, scorer, {"by": "x"}, 4, tmp_path)
    assert calls == [4, 4, 4, 2]
    assert torch.equal(score_pairs(data.images, texts, scorer, {"by": "x"}, 4, tmp_path), first)
    assert calls == [4, 4, 4, 2]
    changed = ["Other.", *texts[1:]]  # the whole batch is scored again, and no other
    again = score_pairs(data.images, changed, scorer, {"by": "x"}, 4, tmp_path)
    assert calls == [4, 4, 4, 2, 4]
    assert torch.equal(again[1:], first[1:])
    score_pairs(data.images, texts, scorer, {"by": "y"}, 4, tmp_path)
    score_pairs(data.images, texts, scorer, {"by": "x"}, 4)
    assert calls == [4, 4, 4, 2, 4, *[4, 4, 4, 2] * 2]


def test_drawing_that_was_killed_goes_on(pipeline, data, tmp_path, monkeypatch):
    whole = draw_texts(pipeline, data, tmp_path / "whole", OPTIONS.drawing)
    draw, calls = type(pipeline).__call__, []

    def dying(self, *arguments, **settings):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, *arguments, **settings)

    monkeypatch.setattr(type(pipeline), "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        draw_texts(pipeline, data, tmp_path / "killed", OPTIONS.drawing)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/drawn").iterdir()}
    assert len(there) == 8
    calls.clear()
    calls.extend([1] * 3)
    again = draw_texts(pipeline, data, tmp_path / "killed", OPTIONS.drawing)
    assert len(calls) == 3 + 2  # the 6 that were left, 4 at once
    assert all(path.stat().st_mtime_ns == then for path, then in there.items())
    for one, other in zip(whole, again, strict=True):
        assert np.abs(read(one.image)[0].astype(int) - read(other.image)[0].astype(int)).max() <= 1


def test_a_model_is_measured_whole(pipeline, data, tmp_path):
    run = measure_model(pipeline, data, tmp_path, OPTIONS, image_set("t", 16))
    names = {result.name for result in run.results}
    wanted = {"fd", "near_train/pixels", "alignment/wins", "bleu_4", "auroc/probe/masked_0.5"}
    wanted |= {"auroc/zero_shot/Normal", "auroc/zero_shot/Pneumonia", "auroc/use/drawn"}
    assert wanted <= names
    assert not run.skipped
    write_run(tmp_path, run)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("<svg") >= 3  # FD against N, findings, masking
    without = measure_model(pipeline, data, tmp_path, OPTIONS)
    assert {"probe", "privacy", "use"} <= {one.metric for one in without.skipped}
    silent = ImageSet("s", tuple(replace(one, text="") for one in data))
    with pytest.raises(ValueError, match=r"14 of 14 X-rays have no text .*\(first: 'd0'\)"):
        measure_model(pipeline, silent, tmp_path, OPTIONS)


def test_zero_shot_is_the_ratio_of_likelihoods(pipeline, data):
    statements = {"Pneumonia": Statements(("Pneumonia.",), ("No pneumonia.", "Normal."))}
    area = zero_shot(pipeline, data, statements, Resampling(10), batch_size=5)[0]
    first = data.images[0].image
    yes, no, normal = pipeline.score(first, ["Pneumonia.", "No pneumonia.", "Normal."])
    wanted = yes - np.logaddexp(no, normal)
    assert area.per_sample.values[0] == pytest.approx(wanted, abs=1e-3)
    with pytest.raises(ValueError, match="'Hernia' is on 0 of 14 X-rays"):
        zero_shot(pipeline, data, {"Hernia": usual_statements("Hernia")}, Resampling(10))
    with pytest.raises(ValueError, match="a statement for each side"):
        Statements((), ("x",))
    assert "Bacterial pneumonia." in usual_statements("Bacterial Pneumonia").present
    assert "No pneumonia." in usual_statements("Viral Pneumonia").absent


def test_an_opening_comes_before_each_statement_and_is_told(pipeline, data, tmp_path):
    statements = {"Pneumonia": Statements(("Pneumonia.",), ("No pneumonia.",))}
    bare = zero_shot(pipeline, data, statements, Resampling(10), 5, tmp_path)[0]
    begun = zero_shot(pipeline, data, statements, Resampling(10), 5, tmp_path, "A child.")[0]
    first = data.images[0].image
    yes, no = pipeline.score(first, ["A child. Pneumonia.", "A child. No pneumonia."])
    assert begun.per_sample.values[0] == pytest.approx(yes - no, abs=1e-3)
    assert begun.per_sample.values[0] != pytest.approx(bare.per_sample.values[0], abs=1e-3)
    assert "|statements:2|opening:A child.|n:" in begun.signature
    assert "opening" not in bare.signature


@pytest.mark.parametrize("opening", ["a|b", "two\nlines", " blank before", "after ", " "])
def test_openings_that_no_signature_can_tell(opening):
    with pytest.raises(ValueError, match=r"opening \(.*\) must be one line without '\|'"):
        replace(OPTIONS, opening=opening)


def test_the_tower_is_looked_at_as_the_model_does(pipeline, data):
    extractor = VisionTowerExtractor(pipeline)
    images = [one.load() for one in data.images[:3]]
    pixels = pipeline.processor.pixel_values([one.image for one in data.images[:3]])
    with torch.inference_mode():
        wanted = pipeline.model.vision(pixels).last_hidden_state.mean(dim=1)
    assert torch.allclose(extractor(images), wanted, atol=1e-6)
    assert extractor.width == wanted.shape[1]
    with pytest.raises(TypeError, match="divide 8-bit pixels"):
        extractor([torch.zeros(1, 32, 32, dtype=torch.uint8)])


class Known:
    """Scores of a table, plus what an X-ray and a text have of their own."""

    name, comparable = "known", False

    def __init__(self, fit):
        self.fit = fit

    def facts(self):
        return {"scorer": self.name}

    def __call__(self, images, texts):
        found = []
        for image, text in zip(images, texts, strict=True):
            ill = float(image.std()) * 100
            found.append(
                self.fit * (text == TEXTS[bool(image[0, 0, 0] > 0.5)]) + ill - 9 * len(text)
            )
        return torch.tensor(found)


@pytest.mark.parametrize(("fit", "wanted"), [(1.0, 1.0), (0.0, 0.5), (-1.0, 0.0)])
def test_alignment_forgets_what_texts_and_xrays_have_of_their_own(data, fit, wanted):
    marked = []
    for one in data:
        pixels = one.image.copy()
        pixels[0, 0] = 1.0 if one.text == TEXTS[True] else 0.0
        marked.append(replace(one, image=pixels))
    found = measure_alignment(ImageSet("m", tuple(marked)), Known(fit), Resampling(5))
    assert found[0].value == wanted
    assert found[1].value == pytest.approx(fit, abs=1e-3)


def test_partners_differ_and_alignment_needs_them(pipeline, data):
    texts = ["a", "b", "a", "a", "c"]
    others = partners(texts)
    assert all(text != texts[other] for text, other in zip(texts, others, strict=True))
    with pytest.raises(ValueError, match="all 2 texts are equal"):
        partners(["a", "a"])
    silent = ImageSet("s", (replace(data.images[0], text=" "), *data.images[1:]))
    with pytest.raises(ValueError, match=r"1 of 14 X-rays of s have no text"):
        measure_alignment(silent, LikelihoodScorer(pipeline), Resampling(5))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 6}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    words = {"[PAD]": 0, "[UNK]": 1, "No": 2, "pneumonia": 3, ".": 4, "Bacterial": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    values = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_a_dual_encoder_of_a_folder_scores_pairs(siglip, data, tmp_path):
    scorer = DualEncoderScorer(siglip, "made-up")
    images = [one.load() for one in data.images[:4]]
    texts = [one.text for one in data.images[:4]]
    scores = scorer(images, texts)
    singles = [scorer([image], [text]) for image, text in zip(images, texts, strict=True)]
    assert torch.allclose(scores, torch.cat(singles), atol=1e-5)
    assert scores.abs().max() <= 1
    assert len(set(scores.tolist())) == 4
    results = measure_alignment(data, scorer, Resampling(10))
    assert results[0].comparable
    assert "scorer:made-up" in results[0].signature
    with pytest.raises(TypeError, match="divide 8-bit pixels"):
        scorer([torch.zeros(1, 32, 32, dtype=torch.uint8)], ["x"])
    with pytest.raises(MetricUnavailable, match=r"no config\.json in .*--scorer FOLDER"):
        DualEncoderScorer(tmp_path)
    for file in siglip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds a 'bert'; known are \['clip', 'siglip'\]"):
        DualEncoderScorer(tmp_path)
