"""What a job needs and cannot fetch: `wheels` for another machine, and `store`, the folder with checksums."""
