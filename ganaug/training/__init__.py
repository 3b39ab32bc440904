"""Training a generator, its discriminator and its encoder."""
