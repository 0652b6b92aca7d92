"""The corpus' own copy of an existing model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from rayloom.errors import InputError
from rayloom.text.tokenizer_files import copy_files


def copy_tokenizer(model: Path, target: Path, new_terms: Sequence[str] = ()) -> None:
    """Copies the tokenizer and appends the new terms to its vocabulary.

    Raises InputError if the model has no fast tokenizer with an end-of-text token.
    """
    from rayloom.data.corpus.encoding import end_token

    fix = "Load it with transformers.AutoTokenizer and save it again: that writes tokenizer.json."
    if not (model / "tokenizer.json").exists():
        raise InputError("The model has no fast tokenizer (tokenizer.json)", where=str(model), fix=fix)
    target.mkdir(parents=True, exist_ok=True)
    copy_files(model, target)
    try:
        end_token(target)
    except (OSError, KeyError, ValueError):
        what = "The tokenizer has no end-of-text token, which ends every document of a corpus"
        raise InputError(what, where=str(model), fix="Set eos_token in its tokenizer_config.json.") from None
    if new_terms:
        tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
        # Whole words only: a term inside a longer word keeps its old tokens.
        tokenizer.add_tokens([AddedToken(term, single_word=True, normalized=False) for term in new_terms])
        tokenizer.save(str(target / "tokenizer.json"))
