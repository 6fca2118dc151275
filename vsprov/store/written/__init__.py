"""What servers have written: copies of it, comparison with the image, snapshots."""
