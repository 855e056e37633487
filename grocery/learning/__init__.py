"""Few labels, many images: the similarity graph, the algorithms and the classifier head."""
