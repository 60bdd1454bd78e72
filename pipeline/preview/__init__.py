"""A dataset as one HTML page and one PNG contact sheet, and optionally a training batch of it.

survey.py  counts over the index, and a choice of samples    page.py, page.html  the page
strips.py  reads the frames of the chosen samples            sheet.py            the contact sheet
batch.py   draws a batch; only this imports torch, or DALI   settings.py         how a training reads the dataset
"""
