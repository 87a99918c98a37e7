"""Guards that make a comparison's answer true, checked before anything is trained.

    duplicate_arms  two arms that are the same experiment under two names            an error
    confounds       what differs between arms besides their declared difference      a warning
    leakage         validation that was trained on                                   an error, or a warning
    `noise`         how far apart equal runs come (attnlab.ranking.noise_floor)      a phase of the sweep

With `guards: strict` in the sweep file, warnings are errors. Findings go to the terminal, to leaderboard.json under
`guards`, and from there to the report. Importing this package imports no torch. `attnlab.plan.guards.run` does.
"""
