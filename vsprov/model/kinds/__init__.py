"""The specs of the kinds of object, one module per kind; `objects.KINDS` lists the kinds."""
