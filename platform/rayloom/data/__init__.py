"""From raw text to a packed corpus, streaming: nothing here holds the corpus, and nothing depends on arrival order.

    sources ─read→ chunks ─judge→ kept documents + keys ─group→ candidate pairs ─fetch, verify→ edges
       earlier corpora ─read back→ keys ┘                                                         │
                                                                     what goes ←──── cluster ─────┘
                                          ┌──────── score, sift ←───────┘
                                          ├→ tokenise → mix by tokens → shards
                                          └→ labels in doubt → parts → balance → augment → rows

A pass is one function from a chunk's or bucket's number to counts; it leaves files in the scratch folder that appear
whole or not at all, so a killed job continues where it was. Passes hand records to each other through exchanges
(`scratch.send` and `receive`), not through the driver: it sees a few hundred bytes a chunk.

What grows, and how, for N documents of 4 kB (N = 1e9: 4 TB of text)

- A task holds one chunk (`chunk_bytes`, 4 MB) and about ten times that in words, hashes and keys, whatever N is.
- A bucket of an exchange holds the keys of 256 MB of input: 64,000 documents × 17 keys × 32 bytes = 35 MB; the
  candidates' shingles, 8 bytes a word, come to at most the same again as the bucket's text. There are N / 64,000
  buckets (16,000), and as many chunks where `chunk_bytes` is raised to 256 MB: 2.6e8 slices are read per exchange.
- An exchange of a ranking (`rayloom.data.exchange.cutoff`: parts of labels, mixing, percentiles) has 16 bytes a
  document: 1 MB a bucket, 16 GB in all; the driver holds one number for each bucket and stratum, and sorts nothing.
- Evaluation sets are held as 14 bytes a passage in files that all processes of a node share (1e7 passages: 140 MB).
- Earlier corpora are read back like new text: the same keys, and their text once more in scratch.
- Scratch on disk: the kept text (compressed, about half), 544 bytes of keys a document (0.5 TB), the tokens (2 or 4
  bytes each), and rejects of at most 1 kB each.
- The driver keeps one record of counts a chunk, a few hundred bytes (16,000 chunks: 10 MB).
- One task clusters all verified pairs: 40 bytes an edge and about 100 at work. 1e8 duplicates take 10 GB there, which
  is where a corpus of more than about 1e9 documents needs clustering in rounds; the other passes do not change.
- One task learns the tokenizer from its sample (`sample_documents`), never from all.
"""
