"""What should happen: pure functions of (view, policy, now)."""
