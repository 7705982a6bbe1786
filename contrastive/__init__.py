"""Contrastive methods: one file a method, their losses in `losses`."""
