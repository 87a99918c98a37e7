"""The leaderboard, and the statistics that decide between arms."""
