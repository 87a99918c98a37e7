"""Speed and memory against sequence length, measured here."""
