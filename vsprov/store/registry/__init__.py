"""Images of registries and of OCI and Docker files."""
