"""FineWeb's own filters (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

from __future__ import annotations

from rayloom.data.rules.examined_text import Drop, ExaminedText
from rayloom.data.rules.repetition import duplicate_shares
from rayloom.specs.cleaning.rules import FineWebRules

END_MARKS = (".", "?", "!", "…", '"', "'", "”", "。", "？", "！", "」", "』", "；", ";", ":", "：")


def judge(examined: ExaminedText, rules: FineWebRules) -> Drop | None:
    """The first limit that the document exceeds."""
    view = examined.view
    lines = [line for line in view.lines if line.strip()]
    count = max(1, len(lines))
    ended = sum(line.rstrip().endswith(END_MARKS) for line in lines) / count
    if ended < rules.min_end_mark_lines_share:
        return Drop("too_few_ended_lines", ended)
    short = sum(len(line) <= rules.short_line_characters for line in lines) / count
    if short > rules.max_short_lines_share:
        return Drop("too_many_short_lines", short)
    _, repeated = duplicate_shares(lines, len(view.text))
    if repeated > rules.max_duplicate_line_characters_share:
        return Drop("too_many_repeated_line_characters", repeated)
    breaks = view.text.count("\n") / max(1, len(view.words))
    return Drop("too_many_lines", breaks) if breaks > rules.max_lines_per_word else None
