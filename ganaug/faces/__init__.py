"""Everything before the latents: image files, alignment, what datasets know about their files."""
