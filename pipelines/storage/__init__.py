"""Kinds of storage behind the store: a folder, S3, and whatever else fsspec knows."""
