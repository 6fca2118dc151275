"""Limits on the resources of servers and pools: every knob, and how cgroup files hold its value."""
