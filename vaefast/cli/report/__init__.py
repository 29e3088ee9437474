"""The report of a run: its measurements, figures and sections, and the HTML page."""
