"""Whether a clip is complete, by the sizes and durations that its container states.

One reader for each container (`isobmff`: MP4, MOV, 3GP, fragmented or not; `matroska`; `riff`: AVI; `flv`; `asf`) reads
the headers of a file into a `Statement`; `completeness` compares it with the file's size and, after decoding, with the
times of the pictures. MPEG streams, Ogg and live recordings state nothing and are not checked.
"""
