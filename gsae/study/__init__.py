"""The blinded study of how interpretable features are: drawing and blinding, rating pages, what comes of them."""
