"""A web crawler for lists of URLs: fetch politely, extract text, keep an archive. Used by datasets/openwebtext only."""
