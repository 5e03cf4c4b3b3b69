"""Files are whole or absent, whatever happens while they are written."""

import errno
import hashlib
from pathlib import Path

import pytest

from unix_cxr.files import (
    append_line,
    read_json,
    replacing,
    replacing_folder,
    sha256,
    write_bytes,
    write_text,
)


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_file_is_replaced_by_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    write_text(path, "né")
    write_bytes(tmp_path / "bytes", b"\x00\x01")
    assert path.read_text(encoding="utf-8") == "né"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\x01"
    assert path.stat().st_mode & 0o444 == 0o444
    assert not leftovers(path.parent)


def test_an_error_while_writing_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as temporary:  # noqa: PT012 - half a file first
        temporary.write_text("half", encoding="utf-8")
        raise KeyError
    assert path.read_text(encoding="utf-8") == "old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("there_before", "kept"), [(True, "the old file is untouched"), (False, "nothing was written")]
)
def test_a_full_disk_is_named_with_the_file_and_the_remedy(
    tmp_path: Path, there_before: bool, kept: str
) -> None:
    path = tmp_path / "file.txt"
    if there_before:
        write_text(path, "old")
    with (
        pytest.raises(OSError, match=rf"no space left .*file\.txt \({kept}\); free") as caught,
        replacing(path),
    ):
        raise full_disk()
    assert caught.value.errno == errno.ENOSPC
    assert path.exists() == there_before


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="not yours"), replacing(tmp_path / "file.txt"):
        raise PermissionError("not yours")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "pipeline"
    for content in ("first", "second"):
        with replacing_folder(target) as folder:
            (folder / "model").mkdir()
            (folder / "model" / content).write_text(content, encoding="utf-8")
    assert [path.name for path in (target / "model").iterdir()] == ["second"]
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("error", [full_disk(), KeyError("something else")])
def test_an_error_while_writing_a_folder_leaves_the_old_one(
    tmp_path: Path, error: Exception
) -> None:
    target = tmp_path / "pipeline"
    with replacing_folder(target) as folder:
        (folder / "old").touch()
    with pytest.raises(type(error)) as caught, replacing_folder(target) as folder:  # noqa: PT012
        (folder / "new").touch()
        raise error
    assert [path.name for path in target.iterdir()] == ["old"]
    assert not leftovers(tmp_path)
    if isinstance(error, OSError):
        assert "the old folder is untouched" in str(caught.value)


def test_what_a_crash_left_behind_is_not_mixed_into_the_next_folder(tmp_path: Path) -> None:
    (tmp_path / ".pipeline.partial").mkdir()
    (tmp_path / ".pipeline.partial" / "stale").touch()
    with replacing_folder(tmp_path / "pipeline") as folder:
        (folder / "fresh").touch()
    assert [path.name for path in (tmp_path / "pipeline").iterdir()] == ["fresh"]


def test_lines_are_added(tmp_path: Path) -> None:
    for line in ("one", "two"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\ntwo\n"


def test_a_line_that_does_not_fit_is_an_error_that_names_the_file() -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match=r"no space left .* /dev/full .*last line may be cut off"):
        append_line(full, "row")


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    write_bytes(tmp_path / "file", data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1', "Expecting"),
        (b"", "Expecting value"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"[1, 2]", "no object, but list"),
        (b"null", "no object, but NoneType"),
    ],
)
def test_a_damaged_json_file_is_named_with_its_remedy(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"config\.json is damaged \(.*{reason}.*\); copy or down"
    ):
        read_json(path)
    with pytest.raises(ValueError, match=rf"config\.json is damaged \(.*{reason}.*\); measure ag"):
        read_json(path, "measure again")


def test_a_json_file_that_is_absent_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"née": [1]}', encoding="utf-8")
    assert read_json(tmp_path / "config.json") == {"née": [1]}
