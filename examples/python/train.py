"""Trains a step graph in stock ONNX Runtime.

    train.py STEP.onnx DATA.npz STATES.npz [EPOCHS [BATCH [LR]]]

One run of a step graph is one training step: it reads the states (parameters, moments, calibrations) and gives their
next values as the outputs mtbal/next/STATE. Two sets of states are allocated once; each step reads one and writes the
other, and nothing is copied. In the end the states are saved, for
    mtbal-rewrite --inference STEP.onnx --states STATES.npz MODEL.onnx
"""
import json
import sys

import numpy as np
import onnxruntime as ort

DEVICE = "cpu"  # "cuda" keeps the states on the graphics card
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
         "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def allocate(outputs):
    """Memory for outputs. All that is allocated here has a fixed shape: states, losses, norms and weights."""
    return {o.name: ort.OrtValue.ortvalue_from_shape_and_type(o.shape, TYPES[o.type], DEVICE, 0) for o in outputs}


def bind(session, bindings, states_in, states_out, watched, lr):
    """A run that reads one set of states (None: those that the model stores) and writes another."""
    io = session.io_binding()
    for state, output in bindings.items():
        if states_in:
            io.bind_ortvalue_input(state, states_in[output])
        io.bind_ortvalue_output(output, states_out[output])
    for name, value in watched.items():
        io.bind_ortvalue_output(name, value)
    if lr is not None:
        io.bind_ortvalue_input("mtbal/lr", ort.OrtValue.ortvalue_from_numpy(np.array(lr, np.float32)))
    return io


def main(step, data, saved, epochs=20, batch=32, lr=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it would warn of every initializer that is also an input: the states
    session = ort.InferenceSession(step, options, providers=ort.get_available_providers())
    metadata = session.get_modelmeta().custom_metadata_map
    bindings = json.loads(metadata["mtbal.state"])  # state -> the output that holds its next value
    tasks = json.loads(metadata["mtbal.tasks"])  # task -> the output that holds its loss
    outputs = {o.name: o for o in session.get_outputs()}
    shown = [n for t, loss in tasks.items() for n in (loss, f"mtbal/weight/{t}", f"mtbal/grad_norm/{t}") if n in outputs]

    # Calibrations are states too: `mtbal-calibrate` stored them, and a step hands them on. An input "mtbal/calibration/T"
    # bound to 1 for every task would train with equal weights.
    sets = [allocate([outputs[o] for o in bindings.values()]) for _ in range(2)]
    watched = allocate([outputs[n] for n in shown])
    first = bind(session, bindings, None, sets[0], watched, lr)
    turns = [bind(session, bindings, sets[i], sets[1 - i], watched, lr) for i in range(2)]

    arrays = np.load(data)
    arrays = {i.name: np.ascontiguousarray(arrays[i.name]) for i in session.get_inputs()}  # the states are no such inputs
    samples, count = len(next(iter(arrays.values()))), 0
    for epoch in range(1, epochs + 1):
        sums, steps = dict.fromkeys(shown, 0.0), 0
        for start in range(0, samples, batch):  # shuffle here: the order of the file is kept to compare with mtbal-run
            io = turns[(count - 1) % 2] if count else first
            for name, array in arrays.items():
                io.bind_cpu_input(name, array[start:start + batch])
            session.run_with_iobinding(io)
            for name in shown:
                sums[name] += float(watched[name].numpy())
            count, steps = count + 1, steps + 1
        print(f"epoch {epoch}", *(f"{name} {sums[name] / steps:.6g}" for name in shown), sep="  ", flush=True)
    last = sets[(count - 1) % 2]
    np.savez(saved, **{state: last[output].numpy() for state, output in bindings.items()})


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 7:
        sys.exit(__doc__)
    main(*sys.argv[1:4], *(kind(text) for kind, text in zip((int, int, float), sys.argv[4:])))
