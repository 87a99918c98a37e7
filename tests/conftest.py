"""Shared by all tests: one thread, no network, no ray surprises."""

import os

os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
