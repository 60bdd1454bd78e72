"""A dataset to look at: one HTML page and one PNG contact sheet.

`survey` streams the index, `strips` reads the samples that are shown, `page` and `sheet` draw them.
"""
