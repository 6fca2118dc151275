"""From the text of manifests to the model: files, templates, YAML with positions, schema."""
