"""Loop devices, and the file systems that limit what a server writes."""
