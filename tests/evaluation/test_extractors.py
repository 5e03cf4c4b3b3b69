"""Extractors own their preprocessing and refuse what they do not expect; features are kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from tests.evaluation.phantoms import TINY, phantoms
from tests.training.conftest import write_films
from unix_cxr.evaluation.classifier import XrayClassifier, classify
from unix_cxr.evaluation.contact_sheet import to_pil
from unix_cxr.evaluation.imaging.extractors import (
    ClassifierExtractor,
    Dinov2Extractor,
    weights_hash,
)
from unix_cxr.evaluation.imaging.features import Extraction, extract, extract_all, squashed
from unix_cxr.evaluation.imaging.image_sets import (
    ImageFile,
    ImageSet,
    open_images,
    refuse_overlap,
    split_patients,
)
from unix_cxr.evaluation.imaging.looks import LooksExtractor
from unix_cxr.evaluation.results import MetricUnavailable

PREPROCESSOR = {
    "size": {"shortest_edge": 28},
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.5307, 0.5307, 0.5307],
    "image_std": [0.2583, 0.2583, 0.2583],
    "resample": 3,
}


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(1)
    return ClassifierExtractor(XrayClassifier(TINY))


def image_of(height, width, seed=0):
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(40, 40), (40, 61), (57, 33)])
def test_dinov2_prepares_as_the_published_processor_does(dinov2, shape):
    extractor = Dinov2Extractor(dinov2, "tiny")
    eight_bits = (image_of(*shape) * 255).round() / 255
    picture = to_pil(eight_bits).convert("RGB")
    scale = 28 / min(picture.size)
    size = tuple(max(28, int(side * scale)) for side in picture.size)
    large = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = ((side - 28) // 2 for side in size)
    pixels = np.asarray(large.crop((left, top, left + 28, top + 28)), dtype=np.float32) / 255
    wanted = (torch.from_numpy(pixels).permute(2, 0, 1) - 0.5307) / 0.2583
    assert torch.allclose(extractor.prepare(eight_bits), wanted, atol=1e-6)
    with torch.inference_mode():
        theirs = extractor.model(extractor.prepare(eight_bits)[None]).pooler_output
    assert torch.equal(extractor([eight_bits]), theirs)
    assert extractor.width == 16
    assert extractor.facts()["size"] == "28x28"
    assert extractor.comparable


def test_dinov2_without_its_files_names_the_remedy(dinov2, tmp_path):
    with pytest.raises(
        MetricUnavailable, match=r"no config\.json in .*--extractor rad-dino=FOLDER"
    ):
        Dinov2Extractor(tmp_path)
    for file in dinov2.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"is no preprocessor of DINOv2"):
        Dinov2Extractor(tmp_path)
    text = json.dumps(PREPROCESSOR | {"resample": 2})
    (tmp_path / "preprocessor_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"resample \(2\) must be 3"):
        Dinov2Extractor(tmp_path)


@pytest.mark.parametrize("which", ["dinov2", "classifier"])
def test_wrong_types_and_ranges_are_refused(request, which):
    made = request.getfixturevalue(which)
    extractor = Dinov2Extractor(made) if which == "dinov2" else made
    with pytest.raises(TypeError, match=r"divide 8-bit pixels by 255"):
        extractor([torch.zeros(1, 40, 40, dtype=torch.uint8)])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 0 to 255"):
        extractor([torch.tensor([0.0, 255.0]).repeat(800).reshape(1, 40, 40)])
    with pytest.raises(ValueError, match=r"must have shape"):
        extractor([torch.zeros(3, 40, 40)])


def test_the_classifier_sees_what_it_always_sees(classifier):
    images = phantoms(4, "p").images
    assert torch.allclose(
        classifier(list(images)), classify(classifier.classifier, images).features, atol=1e-6
    )
    assert not classifier.comparable
    other = XrayClassifier(TINY)
    assert weights_hash(other) != weights_hash(classifier.classifier)
    assert classifier.facts()["weights"] == weights_hash(classifier.classifier)


def image_set(folder, count=7, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    xrays = phantoms(count, "p", seed)
    for number, image in enumerate(xrays.images):
        to_pil(image).save(folder / f"{number}.png")
    return open_images(folder)


class Counting:
    """An extractor that remembers how many X-rays it saw."""

    name, width, comparable = "counting", 2, False

    def __init__(self, wrong=None):
        self.seen, self.wrong = 0, wrong

    def facts(self):
        return {"extractor": self.name}

    def __call__(self, images):
        self.seen += len(images)
        if self.wrong is not None and self.seen > self.wrong:
            raise KeyboardInterrupt
        return torch.stack([torch.stack([image.mean(), image.std()]) for image in images])


def test_a_killed_run_goes_on_from_the_cache(tmp_path):
    images = image_set(tmp_path / "images")
    plain = extract(images, Counting(), Extraction(2, progress=False))
    cached = Extraction(2, cache=tmp_path / "cache", progress=False)
    killed = Counting(wrong=4)
    with pytest.raises(KeyboardInterrupt):
        extract(images, killed, cached)
    again = Counting()
    assert torch.equal(extract(images, again, cached), plain)
    assert again.seen == 3
    renamed = image_set(tmp_path / "renamed")
    third = Counting()
    assert torch.equal(extract(renamed, third, cached), plain)
    assert third.seen == 0
    other = Counting()
    other.name = "other"
    extract(images, other, cached)
    assert other.seen == 7


def test_a_changed_image_is_looked_at_again(tmp_path):
    images = image_set(tmp_path / "images")
    cached = Extraction(2, cache=tmp_path / "cache", progress=False)
    extract(images, Counting(), cached)
    to_pil(1 - images.images[3].load()).save(tmp_path / "images/3.png")
    again = Counting()
    extract(images, again, cached)
    assert again.seen == 1


def test_each_picture_is_read_once_for_all_extractors(tmp_path, monkeypatch):
    images = image_set(tmp_path / "images", 7)
    load, read = ImageFile.load, []
    monkeypatch.setattr(ImageFile, "load", lambda one: read.append(one.id) or load(one))
    squeezed = Extraction(3, squash=20, cache=tmp_path / "cache", progress=False)
    means, looks = extract_all(images, Counting(), [LooksExtractor()], squeezed)
    assert sorted(read) == sorted(images.ids)
    assert torch.equal(looks, extract(images, LooksExtractor(), Extraction(3, progress=False)))
    read.clear()
    again = extract_all(images, Counting(), [LooksExtractor()], squeezed)
    assert not read
    assert torch.equal(again[0], means)
    assert torch.equal(again[1], looks)


def test_a_damaged_cache_is_named(tmp_path):
    images = image_set(tmp_path / "images")
    cached = Extraction(4, cache=tmp_path / "cache", progress=False)
    extract(images, Counting(), cached)
    file = next((tmp_path / "cache").rglob("*.safetensors"))
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"is no file of features .*remove it"):
        extract(images, Counting(), cached)


def test_features_that_are_no_numbers_name_the_image(tmp_path):
    images = image_set(tmp_path / "images")

    class Broken(Counting):
        def __call__(self, given):
            features = super().__call__(given)
            features[-1] = torch.nan
            return features

    with pytest.raises(ValueError, match=r"counting gives NaN or infinity for 1 X-rays \(first: 6"):
        extract(images, Broken(), Extraction(7, progress=False))
    with pytest.raises(ValueError, match=r"batch_size \(0\)"):
        Extraction(0)


def test_squashing_forgets_the_aspect_and_keeps_8_bits():
    square = squashed(image_of(30, 50), 20)
    assert square.shape == (1, 20, 20)
    assert torch.equal((square * 255).round(), square * 255) or torch.allclose(
        (square * 255).round(), square * 255, atol=1e-4
    )


def test_folders_and_manifests_are_opened(tmp_path):
    folder = tmp_path / "drawn"
    image_set(folder, 3)
    plain = open_images(folder)
    assert plain.ids == ("0.png", "1.png", "2.png")
    assert plain.unit == "image"
    rows = [
        {"file": f"{n}.png", "prompt": f"Text {n}.", "label": "normal", "seed": n} for n in range(2)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
    drawn = open_images(folder)
    assert [image.text for image in drawn] == ["Text 0.", "Text 1."]
    assert drawn.images[0].labels == {"normal"}
    (folder / "manifest.jsonl").unlink()
    (folder / "manifest.csv").write_text("img_savename,prompt\n0.png,A.\n", encoding="utf-8")
    assert open_images(folder).images[0].text == "A."
    assert len(plain.first(2)) == 2
    assert plain.first(2).ids == plain.first(2).ids


def test_the_wording_of_a_table_of_labels_does_not_depend_on_where_it_lies(tmp_path):
    here = write_films(tmp_path / "here", train=12)
    there = write_films(tmp_path / "quite" / "elsewhere", train=12)
    first, second = (open_images(folder, split="train") for folder in (here, there))
    texts = [image.text for image in first]
    assert texts == [image.text for image in second]
    assert len(set(texts)) > 2  # several wordings of two labels


def test_sources_of_studies_are_opened():
    phantom = open_images("phantom:6", split=None)
    assert len(phantom) == 6
    assert phantom.unit == "patient"
    assert phantom.images[0].text
    assert phantom.images[0].load().shape[0] == 1
    assert len({image.content_hash() for image in phantom}) == 6


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"file": "gone.png"}', "no image file at"),
        ("{", "row 1: no JSON"),
        ("[]", "row 1: list, not a JSON object"),
        ('{"prompt": "x"}', "neither file nor img_savename"),
        ('{"file": "0.png", "labels": 3}', r"row 1: labels \(3\) must be a list of names"),
        ('{"file": "0.png", "labels": [3]}', r"row 1: labels \(\[3\]\) must be a list"),
        ("", "holds no images"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, manifest, message):
    (tmp_path / "manifest.jsonl").write_text(manifest, encoding="utf-8")
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_images(tmp_path)


def test_a_manifest_that_is_no_text_or_has_no_splits_is_refused(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"file": "0.png"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"no splits and no collections, so split 'dev' .* leave"):
        open_images(tmp_path, split="dev")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"manifest\.jsonl is no text in UTF-8"):
        open_images(tmp_path)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file; give the folder"):
        open_images(tmp_path / "notes.txt")


def test_sets_that_must_be_apart_share_neither_patients_nor_files(tmp_path):
    images = image_set(tmp_path / "images", 4)
    with pytest.raises(ValueError, match=r"2 X-rays are in .* and in .* \(first: \['0.png'"):
        refuse_overlap(images.take([0, 1, 2]), images.take([0, 1]))
    refuse_overlap(images.take([0, 1]), images.take([2, 3]))
    mine = ImageSet("a", tuple(replace(one, group="p") for one in images.images[:2]))
    other = ImageSet("b", tuple(replace(one, group="p") for one in images.images[2:]))
    with pytest.raises(ValueError, match=r"1 patients are in a and in b \(first: \['p'"):
        refuse_overlap(mine, other)


def test_halves_share_no_patient(tmp_path):
    images = image_set(tmp_path / "images", 9)
    grouped = [replace(one, group=f"p{row // 2}") for row, one in enumerate(images)]
    whole = ImageSet("a", tuple(grouped))
    first, second = split_patients(whole, 3)
    assert sorted(first.ids + second.ids) == sorted(whole.ids)
    assert not set(first.groups) & set(second.groups)
    assert split_patients(whole, 3)[0].ids == first.ids
    with pytest.raises(ValueError, match="holds one patient"):
        split_patients(whole.take([0, 1]))


def test_what_holds_no_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no images \(\.png"):
        open_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder at"):
        open_images(tmp_path / "gone")
    image_set(tmp_path / "images", 2)
    with pytest.raises(ValueError, match="no split or subset can be chosen"):
        open_images(tmp_path / "images", split="val")
    (tmp_path / "images/0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0\.png"):
        extract(open_images(tmp_path / "images"), Counting(), Extraction(progress=False))
    one = ImageFile("a", tmp_path / "images/1.png", "p")
    with pytest.raises(ValueError, match="id 'a' is there twice"):
        ImageSet("twice", (one, one))
    with pytest.raises(ValueError, match=r"1 patients are in x and in y \(first: \['p'\]\)"):
        refuse_overlap(ImageSet("x", (one,)), ImageSet("y", (one,)))
    with pytest.raises(ValueError, match=r"limit \(0\)"):
        ImageSet("x", (one,)).first(0)
