"""The job editor: one value changed in a YAML text, the fields of a kind as a form, checking, planning, running."""
