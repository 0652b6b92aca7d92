"""Cleaning: raw text to a packed corpus or a split data set, in streaming passes on nodes that share a store only.

No process holds the corpus, and no result depends on the order in which tasks finish.

    sources ─read→ chunks ─judge→ kept documents + keys ─group→ candidate pairs ─fetch, verify→ edges
       earlier corpora ─read back→ keys ┘                                                         │
                                                             removed documents ←──── cluster ─────┘
                                          ┌──────── score, sift ←───────┘
                                          ├→ tokenise → mix by tokens → shards
                                          └→ labels in doubt → parts → balance → augment → rows

A pass runs one function for each chunk or bucket; the function takes its number and returns counts. What a pass leaves
is one file a chunk in the store (`exchange/work_files.py`); what tasks send each other are Ray objects, computed again
if a node is lost (`ray_exchange.py`). So a killed job goes on after its last finished pass, on any nodes.

Sizes for 10 TB of text in 2.5e9 documents of 4 kB, with `chunk_bytes` of 4 MB: 2.5e6 chunks, 40,000 groups of 64 of
them (256 MB), 10,000 buckets

- Requests to a bucket, counted at an S3 server in a job that learns a tokenizer: 7 writes and 12 reads a chunk, half of
  them less in groups of many chunks, and some 200 for any size. 2.5e6 chunks: 1.8e7 writes, 3e7 reads; `chunk_bytes` of
  16 MB takes a quarter. The work folder has 6 objects a chunk.
- A task of judging holds one chunk and about ten times that in words, hashes and keys, for any N.
- A bucket has the keys of 1 GB of input: 250,000 documents × 17 keys × 32 bytes = 136 MB, about 550 MB while they are
  sorted. The candidates' shingles, 8 bytes a word, take at most about as much as the bucket's text.
- Keys are 544 bytes a document, 1.4 TB in all. Cut in levels of at most 512 MB (`exchange/levels.py`), they are 40,000
  objects as they are sent, 680,000 of 2 MB after the first level, and 110,000 of 12 MB after the second.
- The driver holds 0.8 kB for each object (measured with Ray 2.60; 2 kB for those below 100 kB): 0.6 GB while keys are
  cut; 32 bytes a chunk in the table (80 MB), and about 1 kB of counts a group (40 MB).
- Clusters: 2 · 16 bytes a link and round, and 28 bytes a document with a duplicate. No task holds more than a bucket of
  them, except that the members of one cluster are in one task (1e8 identical documents: 2.8 GB). A path of d documents
  takes about log d rounds; web text has short ones.
- A ranking (`exchange/cutoff.py`: parts of labels, mixing, percentiles) has 16 bytes a document; the driver holds one
  number for each bucket and stratum.
- Evaluation sets take 14 bytes a passage, in files that each node fetches once and its processes map (1e7: 140 MB).
- Earlier corpora cost as much as new text of their size; each node that reads one fetches it whole into its cache.
- The store holds, until the job is done, the kept text (compressed, about half), the keys (1.4 TB), the tokens (2 or 4
  bytes each), and rejects of at most 1 kB each.
- One task trains the tokenizer, on a sample (`sample_documents`), never on all documents, and one plans the shards: it
  reads the sizes of documents only of chunks in which a shard ends. The rows of each of train, validation and test are
  joined by one task, which holds one chunk.
"""
