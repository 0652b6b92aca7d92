"""What tests of several folders are made of: small models, tokenizers, job files, services, clusters and faults."""
