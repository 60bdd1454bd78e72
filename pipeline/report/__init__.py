"""Pages, plots and contact sheets with one style. Takes plain values only.

page.py           a template and its values -> a self-contained HTML file; pictures as data URIs
plots.py          plots as SVG, drawn by matplotlib
contact_sheet.py  captioned pictures with colored edges -> one PNG
heat.py           heat maps over pictures
palette.py        the colors of all, for light and dark screens
templates/        base.html, which every page extends; parts.html, its macros; style.css

The template of a page is next to the code that fills it. jinja2 and matplotlib are imported when first used.
"""
