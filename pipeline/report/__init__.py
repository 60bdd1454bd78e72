"""Pages, plots and contact sheets: one look for everything that people open after a run. Takes plain values only.

page.py           a template and its values -> one HTML file without outside parts; pictures as data URIs
plots.py          plots as SVG, drawn by matplotlib
contact_sheet.py  captioned pictures with colored edges -> one PNG
palette.py        the colors of all three, on light and on dark screens
templates/        base.html, which every page extends; parts.html, its macros; style.css

A page's own template lies beside the code that fills it. jinja2 and matplotlib are imported when something is drawn.
"""
