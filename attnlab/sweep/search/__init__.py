"""What is tried next, and what is stopped: Optuna studies and ASHA brackets per arm."""
