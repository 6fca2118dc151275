"""Images in registries, OCI layouts and archives."""
