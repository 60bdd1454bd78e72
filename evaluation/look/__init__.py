"""Look at the features of any video: `python -m evaluation look VIDEO --weights A,B --out DIR`.

principal   principal components of patch features, as colors
passes      several passes over the features of a clip, in bounded memory
targets     a mask or points of the first frame, to be propagated
video       pictures side by side as MP4
page        the page on which a click on a patch shows its similarity to all others
command     options and program
"""
