"""Scores of generated texts against references, all from 0 to 1.

chrF (Popović 2015) and BLEU (Papineni et al. 2002) by sacrebleu, ROUGE (Lin 2004) by rouge-score, exact match and word
F1 of short answers (Rajpurkar et al. 2016). chrF compares characters and works for every script; ROUGE only sees words
of the Latin alphabet.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence


def sentence_chrf(expected: Sequence[str], answers: Sequence[str]) -> list[float]:
    """chrF of each text."""
    from sacrebleu import sentence_chrf as scored

    return [scored(got, [want]).score / 100 for want, got in zip(expected, answers, strict=True)]


def text_scores(expected: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Corpus chrF, corpus BLEU, and ROUGE F1 averaged over the texts."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu, corpus_chrf

    names = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}
    scorer = RougeScorer(list(names), use_stemmer=False)
    rouge = [scorer.score(want, got) for want, got in zip(expected, answers, strict=True)]
    means = {
        metric: sum(score[name].fmeasure for score in rouge) / max(1, len(rouge)) for name, metric in names.items()
    }
    corpus = {
        "chrf": corpus_chrf(list(answers), [list(expected)]).score / 100,
        "bleu": corpus_bleu(list(answers), [list(expected)]).score / 100,
    }
    return {name: round(value, 6) for name, value in (corpus | means).items()}


# Exact match and word F1 of short answers (SQuAD: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1).
#
# Case, punctuation, English articles and white space are ignored. In scripts without spaces each character is a word.

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


def words_of(text: str) -> list[str]:
    """The normalised words of an answer."""
    kept = "".join(" " if unicodedata.category(c).startswith(("P", "S")) else c for c in text.casefold())
    return _UNSPACED.sub(r" \1 ", _ARTICLES.sub(" ", kept)).split()


def exact_match(answers: Sequence[str], predicted: str) -> float:
    """1 if the answer equals one of those expected, else 0. An empty answer matches if none is expected."""
    if not answers:
        return float(not predicted)
    return float(any(words_of(answer) == words_of(predicted) for answer in answers))


def word_f1(answers: Sequence[str], predicted: str) -> float:
    """The highest word F1 of the answer against those expected."""
    if not answers or not predicted:
        return exact_match(answers, predicted)
    return max(_f1(words_of(answer), words_of(predicted)) for answer in answers)


def _f1(want: list[str], got: list[str]) -> float:
    common = sum((Counter(want) & Counter(got)).values())
    return 2 * common / (len(want) + len(got)) if want or got else 1.0
