"""X-rays in: pixels, studies and the text that their labels support."""
