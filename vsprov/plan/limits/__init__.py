"""Limits of servers and pools: rounded as this machine does it, admitted, and written to cgroup files."""
