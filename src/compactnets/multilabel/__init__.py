"""Several labels per image: networks with a probability for each class, independent of the others."""
