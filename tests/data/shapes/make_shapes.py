"""Writes the shapes that ONNX Runtime gives the values of real exports: what test_infer compares with.

    python3 make_shapes.py      (in this folder; needs onnx, onnxruntime, numpy)

A file: the model's path below tests/data, the sizes of its named dimensions, then a value a line.
"""
import numpy as np
import onnx
import onnxruntime as ort

CASES = [
    ("models/mlp_cls_reg/model.op13.onnx", {"batch": 5}),
    ("models/mlp_cls_reg/functions.onnx", {"batch": 3}),
    ("models/cnn_nyu/model.op14.onnx", {"batch": 2}),
    ("models/cnn_nyu/preserve_dyn_hw.onnx", {"batch": 2, "h": 48, "w": 64}),
    ("models/transformer_glue/model.op13.onnx", {"batch": 3, "seq": 5}),
    ("models/transformer_glue/model.op17.onnx", {"batch": 3, "seq": 5}),
    ("models/transformer_glue/torch_encoder_layer.onnx", {"batch": 3, "seq": 16}),
    ("models/fixtures/control_flow.onnx", {}),
    ("models/fixtures/dynamo_like.onnx", {"batch": 2, "seq": 7}),
]


def feeds_of(model, sizes):
    constant = {t.name for t in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in constant:
            continue
        tensor = value.type.tensor_type
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        data = np.ones(shape) if dtype.kind == "f" else np.arange(np.prod(shape)).reshape(shape) % 2
        feeds[value.name] = data.astype(dtype)
    return feeds


def main():
    for path, sizes in CASES:
        model = onnx.load("../" + path)
        feeds = feeds_of(model, sizes)
        listed = {o.name for o in model.graph.output}
        for node in model.graph.node:
            for name in node.output:
                if name and name not in listed:
                    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options)
        names = [o.name for o in model.graph.output]
        results = session.run(names, feeds)
        out = path.split("/", 1)[1].replace("/", ".").replace(".onnx", ".txt")
        with open(out, "w") as f:
            f.write(path + "\n" + " ".join(f"{k}={v}" for k, v in sizes.items()) + "\n")
            for name, array in zip(names, results):
                f.write(name + " [" + ",".join(map(str, array.shape)) + "]\n")


main()
