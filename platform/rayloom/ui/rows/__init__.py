"""Rows of files, a page at a time: any page of a large file without reading what is before it."""
