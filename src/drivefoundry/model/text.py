"""Tokenizers for reasoning text: a small BPE trained on the reasoning that it will write, or a backbone's.

Ids PAD, EOS and UNK always come first; a backbone's own ids follow them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from drivefoundry.types import require
from drivefoundry_car.documents import decoded

PAD, EOS, UNK = 0, 1, 2
OWN = 3
"""Number of our ids, which precede a backbone's."""
SPACE = "\u2581"
_MIRROR = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def train_tokenizer(texts: Iterable[str], vocab: int = 512) -> bytes:
    """Train a tokenizer of at most `vocab` ids on reasoning texts; returns tokenizer.json. Pieces that start a word
    carry U+2581 for the space.

    Every printable ASCII character is a piece, so any plain text can be written; anything else becomes <unk>.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE)  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<pad>", "<eos>", "<unk>"],
        initial_alphabet=[*map(chr, range(33, 127)), SPACE],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str().encode()


def tokenizer_of(raw: bytes, name: object = "tokenizer.json") -> Tokenizer:
    """Parse tokenizer.json. ValueError, one line that starts with `name`, if it is invalid."""
    text = decoded(raw, name)
    try:
        out = Tokenizer.from_str(text)
        out.decode(out.encode("a 1").ids)
    except BaseException as error:
        # The library raises plain Exception for invalid input, and its panics are not even subclasses of Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:120]
        raise ValueError(f"{name}: not a tokenizer ({said}); the file is damaged, fetch it again") from None
    return out


class TextCodec:
    """A tokenizer: `encode` to padded ids, `decode` to text. shift: number of ids before the tokenizer's own, OWN for a
    backbone's and 0 for one from `train_tokenizer`."""

    def __init__(self, raw: bytes, shift: int = 0):
        self.raw, self.shift = raw, shift
        self._tokenizer = tokenizer_of(raw)
        for name, expected in () if shift else (("<pad>", PAD), ("<eos>", EOS), ("<unk>", UNK)):
            got = self._tokenizer.token_to_id(name)
            require(
                got == expected,
                f"tokenizer.json: {name} must have id {expected}, got {got}; train it with train_tokenizer",
            )

    def __len__(self) -> int:
        return self.shift + self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """(N, length) int64: ids, EOS, then PAD. Longer texts are truncated; '' becomes all PAD (no reasoning)."""
        out = np.full((len(texts), length), PAD, np.int64)
        known: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            if not text:
                continue
            if text not in known:
                ids = self._tokenizer.encode(text, add_special_tokens=False).ids[: length - 1]
                known[text] = [*(k + self.shift for k in ids), EOS]
            out[i, : len(known[text])] = known[text]
        return out

    def decode(self, ids: np.ndarray) -> list[str]:
        """N texts of ids (N, L), each up to EOS."""
        rows = [row[: int(np.argmax(row == EOS))] if (row == EOS).any() else row for row in np.asarray(ids)]
        return self._tokenizer.decode_batch([[int(i) - self.shift for i in row if i >= self.shift] for row in rows])

    def pieces(self) -> list[str]:
        """Every id's piece, so that a reader without this library can decode text."""
        own = ["<pad>", "<eos>", "<unk>"][: self.shift]
        return own + [self._tokenizer.id_to_token(i) or "" for i in range(len(self) - self.shift)]


def load(raw: bytes) -> TextCodec:
    """Parse tokenizer.json bytes as a TextCodec. ValueError if the special ids are not ours."""
    return TextCodec(raw)


def mirror_text(text: str) -> str:
    """The text for the mirrored scene: left and right swapped."""
    out, word = [], ""
    for ch in text + "\0":
        if ch.isalpha():
            word += ch
            continue
        out.append(_MIRROR.get(word, word) + ch)
        word = ""
    return "".join(out)[:-1]
