"""From raw text to a packed corpus, streaming: nothing here holds the corpus, and nothing depends on arrival order.

    sources ─read→ chunks ─judge→ kept documents + keys ─group→ candidate pairs ─fetch, verify→ edges
                                        │                                                         │
                                        └──────────────── tokenise ←──── what goes ←──── cluster ─┘
                                                             └→ shards, rejects, counts

A pass is one function from a chunk's or bucket's number to counts; it leaves files in the scratch folder that appear
whole or not at all, so a killed job continues where it was. Passes hand records to each other through exchanges
(`scratch.send` and `receive`), not through the driver: it sees a few hundred bytes a chunk.
"""
