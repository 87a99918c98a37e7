"""From a dataset's name (`sources`) through the `tokenizer` to `packed` tokens, of which the `sampler` draws."""
