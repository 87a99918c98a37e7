"""As much of a trial's records as a test needs."""


def results_of(job, state="completed", last=None, **changes):
    """A sound results.json of a job, without reports unless `last` is one."""
    steps = changes.get("steps", 0)
    return {
        **{"trial_id": job.trial_id, "arm": job.arm, "phase": job.phase, "settings": dict(job.settings)},
        **{"seed": job.trial.train.seed, "recipe": job.trial.recipe, "state": state},
        **{"steps": steps, "tokens": steps * job.trial.tokens_per_step, "seconds": 1.0, "device_seconds": 1.0},
        **{"best": last, "last": last, "environment": {}, "error": "it broke" if state == "failed" else None},
        **dict.fromkeys(("n_params", "n_params_non_embedding", "flops_per_token", "state_bytes")),
        "checkpoint": "checkpoints/final" if state == "completed" else None,
        **changes,
    }
