"""Janus' tokenizer with the tokens that our sequences need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import AddedToken, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unix_cxr.files import COPY_AGAIN, read_json

BEGIN_OF_IMAGE: Final = "<begin_of_image>"
END_OF_IMAGE: Final = "<end_of_image>"
_FILES: Final = ("special_tokens_map.json", "tokenizer_config.json")


@dataclass(frozen=True)
class JanusTokens:
    """A tokenizer and where its special tokens are.

    Args:
        tokenizer: with all of them.
        ids: by the name of the configuration's key, such as "bos_token_id".
        known: number of the rows, from the first on, that belong to tokens of the source.
        added: names of the tokens that the source lacked; their rows follow.
    """

    tokenizer: PreTrainedTokenizerBase
    ids: dict[str, Any]
    known: int
    added: tuple[str, ...]


def read_janus_tokenizer(folder: Path) -> JanusTokens:
    """The tokenizer of a Janus folder; begin and end of image are added where it lacks them.

    It is read from tokenizer.json alone: the class that other files name may read it otherwise.

    Raises:
        FileNotFoundError: there is no folder, or no tokenizer.json in it.
        ValueError: it is damaged, or names no token that opens and none that closes a text.
    """
    file = folder / "tokenizer.json"
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    if not file.is_file():
        raise FileNotFoundError(
            f"no tokenizer.json in {folder}; give the folder of the tokenizer with --tokenizer"
        )
    library = Tokenizer.from_str(_checked(file))
    vocabulary = library.get_vocab()
    named = {key: name for key, name in _special_tokens(folder).items() if name in vocabulary}
    absent = [key for key in ("bos_token", "eos_token") if key not in named]
    if absent:
        raise ValueError(
            f"{folder} names no {' and no '.join(absent)} that tokenizer.json holds; its "
            f"{' or '.join(_FILES)} must"
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=library, **named)
    known = max(vocabulary.values()) + 1
    added = tuple(name for name in (BEGIN_OF_IMAGE, END_OF_IMAGE) if name not in vocabulary)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in added])
    return JanusTokens(tokenizer, _ids(tokenizer), known, added)


def _checked(file: Path) -> str:
    """The text of a tokenizer's file, which the library would refuse without naming the file."""
    if "model" not in read_json(file):
        raise ValueError(f"{file} holds no tokenizer; {COPY_AGAIN}")
    return file.read_text(encoding="utf-8")


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    vocabulary = tokenizer.get_vocab()
    end = tokenizer.eos_token
    return {
        "bos_token_id": vocabulary[tokenizer.bos_token],
        "eos_token_id": vocabulary[end],
        "pad_token_id": vocabulary[tokenizer.pad_token or end],
        "begin_image_token_id": vocabulary[BEGIN_OF_IMAGE],
        "end_image_token_id": vocabulary[END_OF_IMAGE],
    }


def _special_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token and pad_token by the files beside tokenizer.json."""
    found: dict[str, str] = {}
    for file in (folder / name for name in _FILES):
        if not file.is_file():
            continue
        tree = read_json(file)
        for key in ("bos_token", "eos_token", "pad_token"):
            value = tree.get(key)
            token = value.get("content") if isinstance(value, dict) else value
            if isinstance(token, str):
                found[key] = token
    return found
