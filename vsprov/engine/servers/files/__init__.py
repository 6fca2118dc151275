"""The files of servers: copying, comparison with the image, snapshots."""
