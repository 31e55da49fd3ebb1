"""Loqua: low-rank quantized prompts for vision-language models.

The name of a tensor ends with its shape, one letter for each dimension: `context_MD` is `[M, D]`.
A letter means the same everywhere:

    B     images of a batch or of a pass
    C     centroids of a codebook, 2^bits
    D     width of the text tower
    E     width of the joint embedding
    G     codebooks of a factor
    H     hidden width of the residual network
    I     layers behind the first that read prompts of their own, J - 1
    J     layers that read prompts of their own
    K     classes
    L     positions of a sequence of tokens, or of the part of it that the name says
    M     context tokens
    N     images
    O     start tokens of a caption
    P     positions of the prefix that all classes share, O + M
    Q     positions that attend to others
    R     rank
    S     replicas: prompts that are trained or measured in one pass
    T     training images that shots are drawn from
    U     updates: steps of training
    V     cached views of an image
    W     width of the image tower
    X     whatever the docstring says
    Y, Z  rows of packed class names, and the positions of a row

A small letter stands for some of them: `row_n` are the rows of n of N images. Digits are
themselves, and `3HW` is a picture: channels, height and width.
"""
