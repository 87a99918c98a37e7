"""From a dataset's name (`sources`) to `packed` tokens, from which the `sampler` draws."""
