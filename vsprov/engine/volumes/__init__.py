"""Volumes: their files, their mounts in servers, and whether this host supports them."""
