"""Convert a byte-level BPE between tokenizer.json and GGUF metadata.

Both hold the same pieces and merges; how text is split into words before merging is spelt out in tokenizer.json but
only named in GGUF (`tokenizer.ggml.pre`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from drivefoundry.model.gguf import Value
from drivefoundry.types import require

NORMAL, CONTROL, GIVEN, UNUSED = 1, 3, 4, 5
"""ggml's token types: pieces, marks that are never text, whole words added by hand, rows without a token."""
_PROBE = "It's 12 345 o'CLOCK —  l'été, x_1=+7;\n\n  naïve\t日本 ''d\r\n end "
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_WORDS % digits), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTS: dict[str, pre_tokenizers.PreTokenizer] = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2]),
    "llama-bpe": _split("{1,3}"),
    "qwen2": _split(""),
    "gpt-2": _GPT2,
}
"""GGUF's names of the ways to split text into words."""


def from_gguf(fields: Mapping[str, Value], path: object) -> bytes:
    """Build tokenizer.json from a GGUF file's metadata. ValueError for tokenizers other than byte-level BPE."""
    for key in ("model", "tokens", "merges", "token_type"):
        require(f"tokenizer.ggml.{key}" in fields, f"{path}: no tokenizer.ggml.{key}; must be a byte-level BPE")
    model, pre = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "gpt-2")
    require(model == "gpt2", f"{path}: tokenizer {model!r}; must be a byte-level BPE ('gpt2')")
    require(pre in CUTS, f"{path}: tokenizer.ggml.pre {pre!r}; known are {', '.join(CUTS)}")
    tokens, kinds = _list(fields, "tokens", str, path), _list(fields, "token_type", int, path)
    merges, vocab = _list(fields, "merges", str, path), {token: i for i, token in enumerate(tokens)}
    whole = len(tokens) == len(kinds) == len(vocab)
    require(whole, f"{path}: {len(vocab)} distinct tokens of {len(tokens)}, and {len(kinds)} token types; damaged")
    pairs = [(left, right) for left, _, right in (m.partition(" ") for m in merges)]
    lost = next((m for m, (a, b) in zip(merges, pairs, strict=True) if not {a, b, a + b} <= vocab.keys()), None)
    require(lost is None, f"{path}: tokenizer.ggml.merges: {lost!r} does not join known tokens; the file is damaged")
    out = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        out.normalizer = normalizers.NFC()  # type: ignore[assignment]
    out.pre_tokenizer, out.decoder = CUTS[str(pre)], decoders.ByteLevel()  # type: ignore[assignment]
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, GIVEN):
            out.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)])
    begin = fields.get("tokenizer.ggml.bos_token_id")
    if fields.get("tokenizer.ggml.add_bos_token") and isinstance(begin, int):
        within = 0 <= begin < len(tokens)
        require(within, f"{path}: tokenizer.ggml.bos_token_id must be < {len(tokens)} tokens, got {begin}")
        mark = tokens[begin]
        out.post_processor = processors.TemplateProcessing(f"{mark} $A", None, [(mark, begin)])  # type: ignore[assignment]
    return out.to_str().encode()


def _list(fields: Mapping[str, Value], key: str, kind: type, path: object) -> list:
    """A list from the metadata, with elements of one type."""
    value = fields[f"tokenizer.ggml.{key}"]
    plain = isinstance(value, list) and all(type(item) is kind for item in value)
    require(plain, f"{path}: tokenizer.ggml.{key} is not a list of {kind.__name__}; the file is damaged")
    assert isinstance(value, list)
    return value


def to_gguf(raw: bytes, rows: int) -> dict[str, Value]:
    """GGUF metadata of a tokenizer.json for an embedding of `rows` rows. ValueError unless it is a byte-level BPE that
    splits text in a way that GGUF has a name for."""
    told, tokenizer = json.loads(raw), Tokenizer.from_str(raw.decode())
    bpe = told["model"]["type"] == "BPE" and "ByteLevel" in json.dumps(told["pre_tokenizer"])
    require(bpe, "tokenizer.json: GGUF takes a byte-level BPE; export this one as a Hugging Face directory")
    assert tokenizer.pre_tokenizer is not None
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(_PROBE)
    name = next((k for k, cut in CUTS.items() if cut.pre_tokenize_str(_PROBE) == pieces), None)
    require(name is not None, f"tokenizer.json: pre_tokenizer must split text as one of {', '.join(CUTS)}")
    given = {t["id"]: CONTROL if t["special"] else GIVEN for t in told["added_tokens"]}
    words = [tokenizer.id_to_token(i) for i in range(rows)]
    kinds = [given.get(i, UNUSED if word is None else NORMAL) for i, word in enumerate(words)]
    merges = [m if isinstance(m, str) else " ".join(m) for m in told["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": str(name),
        "tokenizer.ggml.tokens": [unused(i) if word is None else word for i, word in enumerate(words)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }


def unused(row: int) -> str:
    """Placeholder for an embedding row that has no token."""
    return f"[PAD{row}]"


def extended(raw: bytes, rows: int, marks: Sequence[str]) -> bytes:
    """Extend a tokenizer.json to `rows` ids, followed by the marks."""
    tokenizer = Tokenizer.from_str(raw.decode())
    fill = [unused(i) for i in range(tokenizer.get_vocab_size(), rows)]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in [*fill, *marks]])
    return tokenizer.to_str().encode()
