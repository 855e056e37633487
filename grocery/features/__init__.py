"""Descriptors and encoders: images in, vectors out."""
