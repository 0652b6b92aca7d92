"""The loss of a prompt's label words, by the scores that an evaluation chooses labels by, and the batches for it.

Shapes: B rows, Q sequences of S positions, P places that are asked, T tokens of words, W words in all rows, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rayloom.score.label_loss import LabelLoss
from rayloom.score.prompted.likelihoods import AskedWords, padded
from rayloom.score.task_batches import TaskBatch
from rayloom.score.task_loss import TaskLoss, without_cache

CPU = torch.device("cpu")


@dataclass(frozen=True)
class WordBatch(TaskBatch):
    """Prompts with the beginnings of words behind them, and the words that are asked for. `tokens`: (Q, S)."""

    places: Tensor
    """(P,) positions in the flattened sequences at which words are asked for: of a decoder those before the tokens, of
    an encoder the masks."""
    place_of: Tensor
    """(T,) the place of each token of the words."""
    asked: Tensor
    """(T,) these tokens."""
    word_of: Tensor
    """(T,) the word that each belongs to; each row has the words of all labels in turn."""
    divisors: Tensor
    """(W,) what the log-likelihood of each word is divided by."""


def word_batch(
    rows: Sequence[AskedWords],
    targets: Sequence[int],
    divisors: Sequence[Sequence[float]],
    mask_token: int | None = None,
) -> WordBatch:
    """The batch of rows whose right labels have the numbers `targets`, on the CPU.

    `mask_token`: of a cloze, whose words are one token each at the mask of the prompt. Behind a decoder's prompt, words
    that begin alike share a sequence, and the last token of a word is never read.
    """
    sequences: list[tuple[int, ...]] = []
    places: dict[tuple[int, int], int] = {}
    place_of, asked, word_of = [], [], []
    num_words = 0
    for row in rows:
        begun = [()] if mask_token is not None else _longest([word[:-1] for word in row.words])
        first = len(sequences)
        sequences += [(*row.prompt, *stem) for stem in begun]
        start = len(row.prompt) - 1 if mask_token is None else row.prompt.index(mask_token)
        for word in row.words:
            own = next(n for n, stem in enumerate(begun) if stem[: len(word) - 1] == word[:-1])
            for offset, token in enumerate(word):
                # The first token of all words is asked for once for the row.
                place = (first + (own if offset else 0), start + offset)
                place_of.append(places.setdefault(place, len(places)))
                asked.append(token)
                word_of.append(num_words)
            num_words += 1
    tokens, mask = padded(sequences, CPU)
    flat = [sequence * tokens.shape[1] + position for sequence, position in places]
    return WordBatch(
        tokens=tokens,
        mask=mask,
        segments=torch.zeros_like(tokens),
        targets=torch.tensor(list(targets)),
        num_tokens=sum(map(len, sequences)),
        places=torch.tensor(flat),
        place_of=torch.tensor(place_of),
        asked=torch.tensor(asked),
        word_of=torch.tensor(word_of),
        divisors=torch.tensor([value for own in divisors for value in own], dtype=torch.float32),
    )


def _longest(stems: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those of the beginnings that begin no other one."""
    kept: list[tuple[int, ...]] = []
    for stem in sorted(set(stems), key=lambda stem: (-len(stem), stem)):
        if not any(other[: len(stem)] == stem for other in kept):
            kept.append(stem)
    return kept


class WordLoss(TaskLoss):
    """Wraps a language model and maps a batch to the summed cross-entropy of its labels among each other."""

    def __init__(
        self,
        model: nn.Module,
        words_of_labels: Sequence[int],
        smoothing: float = 0.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        """`words_of_labels`: how many words each label has."""
        super().__init__(model, "label", smoothing, weights)
        self.words_of_labels = list(words_of_labels)

    def forward(self, batch: TaskBatch) -> Tensor:
        """() fp32, summed over the rows."""
        if not isinstance(batch, WordBatch):
            raise TypeError("label words need a WordBatch")
        return self.of_logits(self.label_scores(batch), batch)

    def label_scores(self, batch: WordBatch) -> Tensor:
        """(B, K) fp32: the logarithm of the mean probability of each label's words (as `choosing.label_scores`)."""
        reading = LabelLoss(self.model)
        inputs = {"input_ids": batch.tokens, "attention_mask": batch.mask, **without_cache(self.model)}
        hidden = reading.hidden_of(inputs, batch.tokens.shape[1], batch.places)
        log_p = reading.logits(hidden).log_softmax(dim=-1)[batch.place_of, batch.asked]
        words = torch.zeros_like(batch.divisors).index_add(0, batch.word_of, log_p) / batch.divisors
        of_labels = torch.split(words.view(-1, sum(self.words_of_labels)), self.words_of_labels, dim=1)
        return torch.stack([own.logsumexp(dim=1) - torch.tensor(own.shape[1]).log() for own in of_labels], dim=1)
