"""`kind: compare`: several models answer the same prompts, and a judge says which are better."""
