"""Video edits whose true answer is known: source and truth are renderings of the same scene."""
