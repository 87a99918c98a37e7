"""The sweep engine: the only importer of ray."""
