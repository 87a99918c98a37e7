"""From a dataset's name to packed token arrays.

`sources` finds the documents, `tokenizer` encodes them, `packed` keeps the tokens in a cache keyed by content, and
`sampler` says which of them a step reads.
"""
