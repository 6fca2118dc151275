"""What vsprov keeps on disk: images, server directories. Everything here outlives a reboot."""
