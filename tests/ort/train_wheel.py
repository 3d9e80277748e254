"""Trains artifacts of `mtbal-rewrite --target ort-training` with the onnxruntime-training wheel, and saves its checkpoints.

train_wheel.py JOBS.json RESULTS.json
A job: {folder, npz, steps, rates, update, saved}; rates: the learning rate of each step as an input, or null; update:
scalars among the frozen parameters, set before the first step.
Its result: {names, steps: [{output: value}], eval: {output: value}, params}, or {error}
Uses the wheel's compiled module directly: its Python package imports torch, which nothing here needs.
"""
import json
import sys

import numpy as np
from onnxruntime.capi import _pybind_state as ort

device = ort.OrtDevice(ort.OrtDevice.cpu(), ort.OrtDevice.default_memory(), 0)


def run(step, names, arrays):
    feeds, results = ort.OrtValueVector(), ort.OrtValueVector()
    for name in names:
        feeds.push_back(ort.OrtValue.ortvalue_from_numpy(arrays[name], device))
    step(feeds, results)
    return [np.asarray(v.numpy(), np.float64).tolist() for v in list(results)]


def train(job):
    options, folder = ort.SessionOptions(), job["folder"]
    state = ort.load_checkpoint(f"{folder}/checkpoint")
    module = ort.Module(f"{folder}/training_model.onnx", state, f"{folder}/eval_model.onnx", device, options)
    optimizer = ort.Optimizer(f"{folder}/optimizer_model.onnx", state, device, options)
    arrays = {k: np.array(v, order="C") for k, v in np.load(job["npz"]).items()}  # OrtValues borrow them
    for name, value in job["update"].items():
        state.copy_parameter_from(name, ort.OrtValue.ortvalue_from_numpy(np.array(value, np.float32), device))
    names, log = list(module.output_names(True)), []
    for i in range(job["steps"]):
        if job["rates"]:
            arrays["mtbal/lr"] = np.array(job["rates"][i], np.float32)
        log.append(dict(zip(names, run(module.train_step_with_ort_values, module.input_names(True), arrays))))
        optimizer.optimizer_step()
        module.lazy_reset_grad()
    flat = np.zeros(module.get_parameters_size(False), np.float32)
    module.copy_parameters_to_buffer(ort.OrtValue.ortvalue_from_numpy(flat, device), False)
    ort.save_checkpoint(state, job["saved"], True)
    losses = run(module.eval_step_with_ort_values, module.input_names(False), arrays)
    return {"names": names, "steps": log, "eval": dict(zip(module.output_names(False), losses)),
            "params": flat.astype(np.float64).tolist()}


results = []
for job in json.load(open(sys.argv[1])):
    try:
        results.append(train(job))
    except Exception as problem:  # one model must not hide the others
        results.append({"error": f"{type(problem).__name__}: {str(problem)[:500]}"})
json.dump(results, open(sys.argv[2], "w"))
