"""The report of a run: what is measured, the figures, the sections, and the page that holds them."""
