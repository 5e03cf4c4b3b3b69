"""Prepared folders: the same rows whoever reads them, resumed to the same bytes, nothing lost."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unix_cxr.data.phantom.sampling import BUSY, sample_phantom
from unix_cxr.data.phantom.source import PhantomSource
from unix_cxr.data.prepared import MANIFEST, Manifest, PreparedStudies, parquet
from unix_cxr.data.sources import open_source
from unix_cxr.data.studies import Study
from unix_cxr.preparation.prepare import Prepared, prepare
from unix_cxr.preparation.settings import PreparationSettings
from unix_cxr.preparation.shards import JOURNAL, PROBLEMS, ShardWriter, _schema
from unix_cxr.training.batches import batch_indices

REPORT = "FINDINGS: Unchanged large left pleural effusion. No pneumothorax.\nIMPRESSION: ___."


class Made:
    """A source of made-up studies."""

    name = "made-up"
    problems = ()

    def __init__(self, count: int = 23, **changes: Any) -> None:
        self.count, self.changes = count, changes

    def __iter__(self) -> Any:
        for number in range(self.count):
            rng = np.random.default_rng(number)
            values: dict[str, Any] = {
                "image": rng.integers(0, 255, (40, 30), dtype=np.uint8),
                "patient_id": f"p{number // 2}",
                "study_id": f"s{number}",
                "split": "dev" if number // 2 % 4 == 0 else "train",
                "view": "PA",
                "findings": REPORT,
            }
            yield Study(**values | {k: v(number) for k, v in self.changes.items()})


def settings(**changes: Any) -> PreparationSettings:
    content = {"image_size": 32, "shard_rows": 5, "row_group_rows": 2} | changes
    return PreparationSettings.model_validate(content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    made = prepare(Made(), tmp_path / "out", settings())
    assert made.manifest.rows == 23
    studies = list(PreparedStudies(tmp_path / "out", verify=True))
    assert [study.study_id for study in studies] == [f"s{n}" for n in range(23)]
    first = studies[0]
    assert first.findings == "Large left pleural effusion. No pneumothorax."
    assert first.labels == {"Pleural Effusion"}
    assert first.negative >= {"Pneumothorax"}
    assert (first.patient_id, first.split, first.view) == ("p0", "dev", "PA")
    pixels = PreparedStudies(tmp_path / "out").images([0])[0]
    assert pixels.shape == (32, 32)
    assert not pixels[:, :4].any()  # 30 x 40 keeps its aspect ratio: 4 columns of margin
    assert pixels[:, 4:28].any()


def test_splits_are_read_by_number_and_share_nothing(tmp_path: Path) -> None:
    prepare(Made(), tmp_path, settings())
    train, dev = (PreparedStudies(tmp_path, split) for split in ("train", "dev"))
    assert len(train) + len(dev) == 23
    ids = [{study.study_id for study in part} for part in (train, dev)]
    assert not ids[0] & ids[1]
    assert all(study.split == "dev" for study in dev)
    with pytest.raises(ValueError, match=r"no studies in split 'val'; it has \['dev', 'train'\]"):
        PreparedStudies(tmp_path, "val")
    with pytest.raises(IndexError, match="study 23 of 23"):
        PreparedStudies(tmp_path).texts([23])


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_every_epoch_sees_every_study_once_on_any_number_of_parts(
    tmp_path: Path, parts: int
) -> None:
    prepare(Made(), tmp_path, settings())
    read = PreparedStudies(tmp_path)
    readers = [pickle.loads(pickle.dumps(read)) for _ in range(parts)]  # as workers receive them
    seen: list[str] = []
    for step in range(23):
        chosen = batch_indices(23, 6, step, seed=3).tolist()
        batch: list[str] = [""] * 6
        for part, reader in enumerate(readers):
            batch[part::parts] = [s.study_id for s in reader.studies(chosen[part::parts])]
        seen += batch
    epochs = [seen[first : first + 23] for first in range(0, len(seen), 23)]
    assert len(epochs) == 6
    assert all(len(set(epoch)) == 23 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_workers_change_no_byte(tmp_path: Path) -> None:
    prepare(Made(), tmp_path / "one", settings())
    prepare(Made(), tmp_path / "two", settings(), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


class StopError(Exception):
    pass


def _stop_after(shards: int) -> Callable[[int], None]:
    left = iter(range(shards))

    def progress(_: int) -> None:
        if next(left, None) is None:
            raise StopError

    return progress


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, shards: int) -> None:
    prepare(Made(), tmp_path / "whole", settings())
    out = tmp_path / "out"
    with pytest.raises(StopError):
        prepare(Made(), out, settings(), progress=_stop_after(shards))
    assert (out / JOURNAL).is_file()
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json; make it with .*prepare"):
        PreparedStudies(out)
    with (out / JOURNAL).open("a", encoding="utf-8") as file:
        file.write('{"shard": {"fi')  # killed while it wrote a line
    (out / ".shard-00009.parquet.abc.partial").write_bytes(b"half")
    made = prepare(Made(), out, settings())
    assert made.resumed_shards == shards + 1
    (out / ".shard-00009.parquet.abc.partial").unlink(missing_ok=True)
    assert contents(out) == contents(tmp_path / "whole")


_KILLED = """
import sys
from pathlib import Path
from tests.preparation.test_prepare import Made, settings
from unix_cxr.preparation.prepare import prepare
print("ready", flush=True)
prepare(Made(400), Path(sys.argv[1]), settings())
"""


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(out)], stdout=subprocess.PIPE)
    if process.stdout is None:
        raise OSError("no output")
    process.stdout.readline()
    while len(list(out.glob("shard-*.parquet"))) < 3 and process.poll() is None:
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    made = prepare(Made(400), out, settings())
    assert made.resumed_shards >= 2
    prepare(Made(400), tmp_path / "whole", settings())
    found = {k: v for k, v in contents(out).items() if not k.endswith(".partial")}
    assert found == contents(tmp_path / "whole")


def test_a_finished_folder_is_left_alone_or_refused(tmp_path: Path) -> None:
    prepare(Made(), tmp_path, settings())
    before = contents(tmp_path)
    again: Prepared = prepare(Made(), tmp_path, settings())
    assert again.resumed_shards == 5
    assert contents(tmp_path) == before
    with pytest.raises(FileExistsError, match=r"prepared already, with another image_size, text"):
        prepare(Made(), tmp_path, settings(image_size=64, text="as-is"))


def test_a_run_killed_at_its_very_end_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(Made(), tmp_path / "whole", settings())
    unlink = Path.unlink

    def power_cut(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == JOURNAL:
            raise StopError
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", power_cut)
    with pytest.raises(StopError):
        prepare(Made(), tmp_path / "out", settings())
    monkeypatch.undo()
    prepare(Made(), tmp_path / "out", settings())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_unfinished_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        prepare(Made(), tmp_path, settings(), progress=_stop_after(1))
    with pytest.raises(ValueError, match="belongs to another source, other settings or"):
        prepare(Made(), tmp_path, settings(image_size=64))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for out in ("file", "file/within"):
        with pytest.raises(NotADirectoryError, match=r"file is a file; give the folder to make as"):
            prepare(Made(3), tmp_path / out, settings())


def test_a_run_that_finished_nothing_does_not_bind_the_next(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--on-bad count lists such images"):
        prepare(Made(3, image=lambda _: b"no picture"), tmp_path, settings())
    assert prepare(Made(3), tmp_path, settings(image_size=64)).manifest.image_size == 64


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-9], r"shard-00001\.parquet has [\d,]+ bytes, its manifest says"),
        (None, r"shard-00001\.parquet is missing"),
        (lambda data: data[:99] + b"?" + data[100:], "differs from its checksum"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    prepare(Made(), tmp_path, settings())
    path = tmp_path / "shard-00001.parquet"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PreparedStudies(tmp_path, verify=True)


@pytest.mark.parametrize("text", ["{", '{"format": 2}', "{}", "[]"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .*prepare the folder again"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("version", [1, 3])
def test_a_folder_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    prepare(Made(3), tmp_path, settings())
    content = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    (tmp_path / MANIFEST).write_text(json.dumps(content | {"format": version}), encoding="utf-8")
    message = rf"has format {version}, and this version of unix_cxr reads 2; remove .* again"
    with pytest.raises(ValueError, match=message):
        PreparedStudies(tmp_path)
    with pytest.raises(ValueError, match=message):
        prepare(Made(3), tmp_path, settings())


def test_an_unfinished_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        prepare(Made(), tmp_path, settings(), progress=_stop_after(1))
    text = (tmp_path / JOURNAL).read_text(encoding="utf-8")
    (tmp_path / JOURNAL).write_text(text.replace('"format": 2', '"format": 1'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"or another version; give the same ones.* or remove"):
        prepare(Made(), tmp_path, settings())


def test_values_lie_where_parquet_has_them(tmp_path: Path) -> None:
    """Texts of every length, none too, are those that pyarrow reads from the same shards."""
    texts = ["", "ä" * 300, "No nodule.", "", ""]
    source = Made(23, findings=lambda n: texts[n % 5])
    made = prepare(source, tmp_path, settings(text="as-is", row_group_rows=3))
    tables = [parquet().read_table(tmp_path / shard.file) for shard in made.manifest.shards]
    read = PreparedStudies(tmp_path)
    assert read.texts(range(23)) == [t for table in tables for t in table["text"].to_pylist()]
    assert read.texts(range(5)) == texts
    images = [png for table in tables for png in table["image"].to_pylist()]
    assert [study.image for study in read.studies(range(23))] == images


def test_values_written_in_another_way_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parquet writer that cuts columns into pages would leave wrong places."""
    monkeypatch.setattr("unix_cxr.preparation.shards._PAGE_BYTES", 1)
    writer = ShardWriter(tmp_path / "shard.parquet", _schema(()))
    facts = dict.fromkeys(("study_id", "patient_id", "split", "subset", "view", "sex", "age"), "")
    lists: dict[str, list[str]] = {"labels": [], "negative": [], "uncertain": []}
    rows = [{**facts, **lists, "text": "No nodule.", "image": b"x"} for _ in range(3000)]
    writer.write(rows)
    writer.close()
    with pytest.raises(ValueError, match="the column text in another way than plainly"):
        writer.save_places(tmp_path / "places.npy")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, r"shard-00001\.places\.npy is missing; prepare the folder again"),
        (lambda data: data[:-9], r"shard-00001\.places\.npy is damaged .*; remove .* prepare"),
        (lambda data: data[:20], r"shard-00001\.places\.npy is damaged"),
        (lambda data: data[:-9] + b"?" + data[-8:], "places.npy differs from its checksum"),
    ],
)
def test_damaged_places_are_refused(tmp_path: Path, damage: Any, message: str) -> None:
    prepare(Made(), tmp_path, settings())
    path = tmp_path / "shard-00001.places.npy"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PreparedStudies(tmp_path, verify="checksum" in message).images(range(23))


_READING = """
import sys
from unix_cxr.data.prepared import PreparedStudies
read = PreparedStudies(sys.argv[1])
read.images([3, 0]), read.texts([1])
print("pyarrow" in sys.modules)
"""


def test_training_reads_without_parquet(tmp_path: Path) -> None:
    """Which would cost the memory of an index for each shard and the time of a row group."""
    prepare(Made(), tmp_path, settings())
    command = [sys.executable, "-c", _READING, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False"]


def test_what_is_left_out_is_counted_and_listed(tmp_path: Path) -> None:
    def image(number: int) -> Any:
        spoiled = {4: b"no picture", 5: np.full((40, 30), 7, np.uint8)}
        return spoiled.get(number, next(iter(Made(1))).image)

    source = Made(12, view=lambda n: "LATERAL" if n == 3 else "PA", image=image)
    made = prepare(source, tmp_path, settings(on_bad="count"))
    assert source.count == made.manifest.rows + 3
    assert made.manifest.left_out == {
        "picture: constant": 1,
        "unreadable image": 1,
        "view LATERAL": 1,
    }
    lines = (tmp_path / PROBLEMS).read_text(encoding="utf-8").splitlines()
    problems = [json.loads(line) for line in lines]
    assert [problem["study_id"] for problem in problems] == ["s3", "s4", "s5"]
    assert "not an image" in problems[1]["detail"]


def test_a_bad_image_stops_unless_it_is_to_be_counted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study s0: .*not an image that can be read"):
        prepare(Made(3, image=lambda _: b"no picture"), tmp_path, settings())


def test_a_source_without_splits_needs_a_salt(tmp_path: Path) -> None:
    unsplit = Made(40, split=lambda _: "")
    with pytest.raises(ValueError, match=r"states no split for study 's0'; give a salt \(--salt\)"):
        prepare(unsplit, tmp_path / "none", settings())
    made = prepare(unsplit, tmp_path / "out", settings(salt="test", dev_fraction=0.3))
    splits = {name for shard in made.manifest.shards for name, _ in shard.splits}
    assert splits == {"train", "dev", "val"}
    patients: dict[str, set[str]] = {}
    for study in PreparedStudies(tmp_path / "out"):
        patients.setdefault(study.patient_id, set()).add(study.split)
    assert all(len(found) == 1 for found in patients.values())


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    leaking = Made(8, split=lambda n: "train" if n % 2 else "dev")
    with pytest.raises(ValueError, match=r"4 patients are in two splits, such as .*p0"):
        prepare(leaking, tmp_path, settings())
    assert not (tmp_path / MANIFEST).exists()
    mended = prepare(Made(8), tmp_path, settings())
    assert mended.resumed_shards == 0  # not the leaking shards with a manifest
    patients: dict[str, set[str]] = {}
    for study in PreparedStudies(tmp_path):
        patients.setdefault(study.patient_id, set()).add(study.split)
    assert all(len(found) == 1 for found in patients.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"split": lambda n: "test" if n < 2 else "train"},
        {"findings": lambda n: "Edema." if n == 3 else REPORT},
        {"labels": lambda n: frozenset(["Edema"]) if n == 3 else frozenset()},
        {"study_id": lambda n: f"s{n + 1}"},  # a row was taken from the front
    ],
    ids=["split", "report", "label", "order"],
)
def test_a_source_that_was_changed_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(StopError):
        prepare(Made(), tmp_path, settings(), progress=_stop_after(1))
    with pytest.raises(ValueError, match=r"made-up was changed since .*shard-00000\.parquet was m"):
        prepare(Made(**changes), tmp_path, settings())
    assert prepare(Made(), tmp_path, settings()).resumed_shards == 2


def test_texts_are_cleaned_or_kept_or_required(tmp_path: Path) -> None:
    prepare(Made(2), tmp_path / "kept", settings(text="as-is"))
    assert PreparedStudies(tmp_path / "kept").texts([0]) == [REPORT]
    dirty = Made(4, findings=lambda n: "" if n == 1 else REPORT)
    made = prepare(dirty, tmp_path / "required", settings(require_text=True))
    assert made.manifest.left_out == {"no text: the source has none": 1}


def test_one_section_is_kept_of_texts_as_they_are(tmp_path: Path) -> None:
    source = Made(2, findings=lambda _: "No nodule.", impression=lambda _: "Normal.")
    for section, text in (
        ("text", "FINDINGS: No nodule.\nIMPRESSION: Normal."),
        ("findings", "No nodule."),
        ("impression", "Normal."),
    ):
        prepare(source, tmp_path / section, settings(text="as-is", section=section))
        assert PreparedStudies(tmp_path / section).texts([0]) == [text]


def test_sixteen_bits_survive(tmp_path: Path) -> None:
    ramp = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60
    prepare(Made(1, image=lambda _: ramp), tmp_path, settings(image_bits=16))
    image: Any = PreparedStudies(tmp_path).studies([0])[0].image
    from unix_cxr.data.pixels import load_xray

    assert np.array_equal((load_xray(image).pixels * 65535).round().astype(np.uint16), ramp)


def test_moments_are_those_of_the_autoencoder(tmp_path: Path) -> None:
    nano = Path("unix_cxr/weights/nano")
    made = prepare(
        PhantomSource(6, size=64),
        tmp_path,
        settings(image_size=64, text="as-is", latents=str(nano), features=None),
    )
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(nano / "vae", torch_dtype=torch.float32)
    read = PreparedStudies(tmp_path)
    images = torch.from_numpy(read.images(range(6)))[:, None].float() / 255
    with torch.no_grad():
        expected = vae.encode(images * 2 - 1).latent_dist.parameters
    assert made.manifest.moments_shape == (8, 8, 8)
    torch.testing.assert_close(torch.from_numpy(read.moments(range(6))), expected)
    with pytest.raises(ValueError, match="has no features; prepare it with --features"):
        read.features([0])


def test_phantoms_keep_their_clean_text_when_cleaned(tmp_path: Path) -> None:
    """The phantoms' clean reports state findings only: cleaning must lose none of them."""
    from unix_cxr.data.phantom import parse

    source = PhantomSource(30, size=32)
    prepare(source, tmp_path, settings())
    for before, after in zip(source, PreparedStudies(tmp_path), strict=True):
        stated = parse(before.findings)
        found = {s for s in stated.present if not {s} & parse(after.findings).present}
        assert not found, (before.findings, after.findings)


def test_a_prepared_folder_is_a_source(tmp_path: Path) -> None:
    prepare(Made(), tmp_path, settings())
    source = open_source(tmp_path)
    assert source.name.startswith("prepared:")
    assert [study.study_id for study in source] == [f"s{n}" for n in range(23)]
    assert len(list(open_source("phantom:3", size=32))) == 3
    busy = open_source("phantom:3:busy", size=32)
    assert [study.patient_id for study in busy] == ["phantom-0", "phantom-1", "phantom-2"]
    assert busy.name != open_source("phantom:3", size=32).name
    expected = [sample_phantom(seed, counts=BUSY).labels for seed in range(3)]
    assert [study.labels for study in busy] == expected
    assert expected != [sample_phantom(seed).labels for seed in range(3)]
    for wrong in ("phantom:many", "phantom:3:many", "phantom:3:"):
        with pytest.raises(ValueError, match=f"{wrong} must end in how many"):
            open_source(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 33}, "multiple of 16"),
        ({"views": ["oblique"]}, r"views \['oblique'\] must be some of"),
        ({"refuse_pictures": ["ugly"]}, r"\['ugly'\] are unknown; known"),
        ({"txt": "unix"}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made-up has no study to prepare: the source is empty"):
        prepare(Made(0), tmp_path, settings())


def test_no_number_of_workers_below_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"workers \(0\) must be at least 1"):
        prepare(Made(), tmp_path, settings(), workers=0)


def test_features_are_those_of_the_vision_tower(tmp_path: Path) -> None:
    nano = Path("unix_cxr/weights/nano")
    prepare(
        PhantomSource(3, size=128),
        tmp_path,
        settings(image_size=128, text="as-is", features=str(nano)),
    )
    from unix_cxr.models.unix import UniXModel
    from unix_cxr.pipelines.processing import UniXProcessor

    read = PreparedStudies(tmp_path)
    images = torch.from_numpy(read.images(range(3)))[:, None].float() / 255
    pixels = UniXProcessor.from_pretrained(nano / "processor").normalise(images)
    with torch.no_grad():
        expected = UniXModel.from_pretrained(nano / "model").vision(pixels).last_hidden_state
    found = torch.from_numpy(read.features(range(3)))
    assert float((found - expected).abs().max()) <= 2**-11 * float(expected.abs().max())
    with pytest.raises(FileNotFoundError, match=r"no safetensors file; give the folder of a pipe"):
        prepare(PhantomSource(1, size=32), tmp_path / "x", settings(latents=str(tmp_path)))
