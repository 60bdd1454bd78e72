"""Whether a clip is all there, by what its container states.

One reader for each container (`isobmff`: MP4, MOV, 3GP, whole or in fragments; `matroska`, `riff`: AVI, `flv`, `asf`)
turns a file into a `Statement`, reading headers only; `completeness` compares it with the file's size and, after
decoding, with the times of the pictures. MPEG streams, Ogg and live recordings state nothing and are not judged.
"""
