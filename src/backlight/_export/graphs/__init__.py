"""An explainer as a graph of ONNX's operators: whole matrices of rows, closed forms, no gradients; and its files.

``graph``     nodes of a graph, from expressions of its values
``rows``      the registries: one emitter a layer, one a module of the front end
``elements``, ``layers``, ``links``, ``pools``, ``trees``   the emitters
``tables``    a classical model's explainer as a graph
``networks``, ``steps``, ``maps``   relevance propagation of a torch module as a graph
``onnx``, ``programs``, ``source``   a graph as ONNX, as a program of torch, as a file of NumPy
``leaves``    trees in steps of one size, for those that have no operator for trees
``verify``    what was written beside the explainer

A new layer is written by one function under ``register``; a layer that has none is refused by name. An operator has one
line in ``programs`` and one in ``source``; a form that lacks it refuses it by name.
"""
