"""Raw images in, clean shards out."""
