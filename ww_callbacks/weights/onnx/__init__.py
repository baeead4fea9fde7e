"""Layers of ONNX models. The graph says how each weight is used, so no kind is inferred.

- ``wire`` finds the messages in a file without reading the numbers.
- ``tensors`` turns stored tensors into :class:`~ww_callbacks.weights.tensor.StoredTensor`, external data included.
- ``graph`` reads the nodes and the tensors of a file.
- ``passing`` follows a weight through Identity, Transpose and DequantizeLinear.
- ``rules`` says what the axes of a weight count, by the node that uses it.
- ``layers`` puts them together.
"""
