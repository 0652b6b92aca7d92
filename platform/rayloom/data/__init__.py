"""Cleaning: raw text to a packed corpus or a split data set, in streaming passes.

No process holds the corpus, and no result depends on the order in which tasks finish.

    sources ─read→ chunks ─judge→ kept documents + keys ─group→ candidate pairs ─fetch, verify→ edges
       earlier corpora ─read back→ keys ┘                                                         │
                                                             removed documents ←──── cluster ─────┘
                                          ┌──────── score, sift ←───────┘
                                          ├→ tokenise → mix by tokens → shards
                                          └→ labels in doubt → parts → balance → augment → rows

A pass runs one function for each chunk or bucket; the function takes its number and returns counts. Files in the
scratch folder are written atomically, so a killed job continues where it was. Passes exchange records through files
(`scratch.send` and `receive`: a shuffle by bucket), not through the driver, which gets a few hundred bytes a chunk.

Memory and disk for N documents of 4 kB (N = 1e9: 4 TB of text)

- A task holds one chunk (`chunk_bytes`, 4 MB) and about ten times that in words, hashes and keys, for any N.
- A bucket of an exchange holds the keys of 256 MB of input: 64,000 documents × 17 keys × 32 bytes = 35 MB; the
  candidates' shingles, 8 bytes a word, take at most about as much as the bucket's text. There are N / 64,000
  buckets (16,000), and as many chunks if `chunk_bytes` is raised to 256 MB: 2.6e8 slices are read per exchange.
- An exchange of a ranking (`rayloom.data.exchange.cutoff`: parts of labels, mixing, percentiles) has 16 bytes a
  document: 1 MB a bucket, 16 GB in all; the driver holds one number for each bucket and stratum, and sorts nothing.
- Evaluation sets take 14 bytes a passage, in files that all processes of a node map (1e7 passages: 140 MB).
- Earlier corpora cost as much as new text of their size: the same keys, and their text in scratch.
- Scratch on disk: the kept text (compressed, about half), 544 bytes of keys a document (0.5 TB), the tokens (2 or 4
  bytes each), and rejects of at most 1 kB each.
- The driver keeps one record of counts a chunk, a few hundred bytes (16,000 chunks: 10 MB).
- One task clusters all verified pairs: 40 bytes an edge on disk, about 100 in memory. 1e8 duplicates take 10 GB, so a
  corpus of more than about 1e9 documents would need clustering in rounds; the other passes would not change.
- One task trains the tokenizer, on a sample (`sample_documents`), never on all documents.
"""
