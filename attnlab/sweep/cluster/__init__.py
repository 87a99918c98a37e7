"""The Ray cluster: joining it, its nodes, its code and its kernels."""
