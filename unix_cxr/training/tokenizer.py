"""A small tokenizer of one's own: byte-level BPE, so no text is ever unknown."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<begin_of_image>", "<end_of_image>", "<image>")


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (arXiv:1508.07909) over texts, with the special tokens in front.

    Args:
        texts: what the merges are learned from.
        vocabulary_size: at least 256 bytes and the special tokens.

    Raises:
        ValueError: the vocabulary is too small, or the texts give fewer merges than asked.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if vocabulary_size < least:
        raise ValueError(f"vocabulary_size ({vocabulary_size}) must be at least {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos, *images = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=images,
        padding_side="left",
    )
