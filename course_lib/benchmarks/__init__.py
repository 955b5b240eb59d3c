"""Paired measurements against the library of reference, one module a subject (`course bench`)."""
