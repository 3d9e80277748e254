// Trains a step graph in stock ONNX Runtime, in Node.js (npm install onnxruntime-node):
//
//   mtbal-rewrite STEP.onnx SPLIT.onnx --states STATES.npz
//   node train.mjs SPLIT.onnx DATA.npz STATES.npz [EPOCHS [BATCH [LR]]]
//   mtbal-rewrite --inference SPLIT.onnx --states STATES.npz MODEL.onnx
//
// One run of a step graph is one training step: it reads the states (parameters, moments, calibrations) and gives their
// next values as the outputs mtbal/next/STATE. ONNX Runtime for JavaScript feeds no input that has a stored value, so the
// states lie beside the graph, in STATES.npz; they are read from there and, in the end, written back.
import { readFile, writeFile } from "node:fs/promises";
import * as ort from "onnxruntime-node";
import { readNpz, writeNpz } from "../web/npz.mjs";

const [step, dataFile, saved, epochs = 20, batch = 32, lr] = process.argv.slice(2);
if (!saved) {
  console.error("usage: node train.mjs SPLIT.onnx DATA.npz STATES.npz [EPOCHS [BATCH [LR]]]");
  process.exit(2);
}
const session = await ort.InferenceSession.create(step);

// JavaScript cannot read the model's metadata (mtbal.state: state -> output), but the names tell as much.
const NEXT = "mtbal/next/";
const states = session.outputNames.filter(n => n.startsWith(NEXT)).map(n => n.slice(NEXT.length));
const tasks = session.outputNames.filter(n => n.startsWith("mtbal/weight/")).map(n => n.slice("mtbal/weight/".length));
const shown = tasks.flatMap(t => [t, `mtbal/weight/${t}`, `mtbal/grad_norm/${t}`]).filter(n => session.outputNames.includes(n));
const wanted = [...shown, ...states.map(s => NEXT + s)]; // no more is handed to JavaScript

// The tensors that come out of a step go into the next as they are: JavaScript never touches their contents. Hyper-
// parameters (mtbal/lr, ...) stay. mtbal/calibration/T = 1 for every task would train with equal weights.
const open = async path => readNpz(Uint8Array.from(await readFile(path)).buffer);
const tensor = ({ type, dims, data }) => new ort.Tensor(type, data, dims);
const kept = Object.fromEntries(Object.entries(await open(saved)).map(([name, a]) => [name, tensor(a)]));
if (lr !== undefined) kept["mtbal/lr"] = new ort.Tensor("float32", [Number(lr)], []);

const arrays = await open(dataFile);
const inputs = session.inputNames.filter(n => n in arrays);
const samples = arrays[inputs[0]].dims[0];
const rows = ({ type, dims, data }, start, n) => { // a view of n samples, not a copy
  const width = data.length / dims[0];
  return new ort.Tensor(type, data.subarray(start * width, (start + n) * width), [n, ...dims.slice(1)]);
};

for (let epoch = 1; epoch <= epochs; epoch++) {
  const sums = new Map(shown.map(n => [n, 0]));
  let steps = 0;
  for (let start = 0; start < samples; start += Number(batch)) { // shuffle here; the file's order compares with mtbal-run
    const n = Math.min(batch, samples - start);
    const feeds = Object.fromEntries(inputs.map(i => [i, rows(arrays[i], start, n)]));
    const out = await session.run({ ...feeds, ...kept }, wanted);
    for (const s of states) kept[s] = out[NEXT + s];
    for (const name of shown) sums.set(name, sums.get(name) + out[name].data[0]);
    steps++;
  }
  console.log([`epoch ${epoch}`, ...[...sums].map(([name, sum]) => `${name} ${(sum / steps).toPrecision(6)}`)].join("  "));
}
await writeFile(saved, new Uint8Array(await writeNpz(kept)));
