"""Models, one file a family: each reads a fitted estimator and names its scores.

``svm`` · ``density`` · ``cluster`` · ``gaussians`` · ``bayes`` · ``neighbors`` · ``linear`` · ``perceptrons`` ·
``expansions`` · ``processes`` · ``boltzmann`` · ``ensembles`` · ``trees``; ``kernels`` radial kernels as layers,
``scores`` what several families share. A new model is one function ``(estimator) -> ModelSpec`` in a file here,
registered with ``@neuralize.register("module.Class")``.
"""
