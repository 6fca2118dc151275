"""What vsprov keeps on disk: images and server directories. It survives a reboot."""
