"""Waiting for the conditions of servers, such as their readiness: in an apply, and between its rounds."""
