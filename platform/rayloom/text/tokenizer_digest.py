"""A digest by which two tokenizers are known to give the same ids."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of vocabulary, merges and rules, whichever folder the tokenizer was loaded from."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # Padding and truncation are settings of the last call, not of the tokenizer.
    rules.pop("padding", None)
    rules.pop("truncation", None)
    return hashlib.sha256(json.dumps(rules, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
