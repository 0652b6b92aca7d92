"""How close written texts come to those expected: chrF and BLEU (Popović 2015; Papineni et al. 2002) as sacrebleu
counts them, ROUGE (Lin 2004) as rouge-score does. All from 0 to 1.

chrF compares characters, so it serves every script; ROUGE's words are those of the Latin alphabet.
"""

from __future__ import annotations

from collections.abc import Sequence


def sentence_chrf(expected: Sequence[str], found: Sequence[str]) -> list[float]:
    """chrF of each text."""
    from sacrebleu import sentence_chrf as scored

    return [scored(got, [want]).score / 100 for want, got in zip(expected, found, strict=True)]


def text_scores(expected: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Scores over all texts: chrF and BLEU of the corpus, mean F1 of ROUGE."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu, corpus_chrf

    names = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}
    scorer = RougeScorer(list(names), use_stemmer=False)
    rouge = [scorer.score(want, got) for want, got in zip(expected, found, strict=True)]
    means = {said: sum(score[name].fmeasure for score in rouge) / max(1, len(rouge)) for name, said in names.items()}
    corpus = {
        "chrf": corpus_chrf(list(found), [list(expected)]).score / 100,
        "bleu": corpus_bleu(list(found), [list(expected)]).score / 100,
    }
    return {name: round(value, 6) for name, value in (corpus | means).items()}
