"""An explainer as an ONNX graph: whole matrices of rows, closed forms, no gradients.

``graph``     nodes of a graph, from expressions of its values
``rows``      the registries: one emitter a layer, one a module of the front end
``elements``, ``layers``, ``links``, ``pools``, ``trees``   the emitters
``tables``    a classical model's explainer as a graph
``verify``    the graph beside the explainer, in onnxruntime

A new layer is written in ONNX by one function under ``register``; a layer that has none is refused by name.
"""
