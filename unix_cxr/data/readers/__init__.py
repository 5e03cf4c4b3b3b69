"""One reader per corpus: its layout on the disk to studies."""
