// A step graph in onnxruntime-web: what a page needs to train. One run of the graph is one training step: it reads the
// states (parameters, moments, calibrations) and gives their next values as the outputs mtbal/next/STATE. The tensors
// that come out go into the next step as they are; with WebGPU they never leave the graphics card.
import { readNpz } from "./npz.mjs";

const NEXT = "mtbal/next/";
const fetched = async path => {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
};
export const arraysOf = async path => readNpz(await fetched(path));
export const sampleCount = arrays => Object.values(arrays)[0].dims[0];

export class Trainer {
  // runtime: "wasm" runs everywhere; "webgpu" where the browser has it.
  static async open(model, states, runtime) {
    const t = new Trainer();
    t.ort = await import(`./ort/ort.${runtime}.min.mjs`);
    t.ort.env.wasm.numThreads = 1; // more need COOP and COEP headers, and pay for networks larger than this one
    t.initial = await arraysOf(states);
    t.session = await t.ort.InferenceSession.create(new Uint8Array(await fetched(model)), {
      executionProviders: [runtime],
      logSeverityLevel: 3, // WebGPU leaves some small operators to WebAssembly, and would warn
      preferredOutputLocation: runtime === "webgpu" ? "gpu-buffer" : "cpu",
    });
    t.states = t.session.outputNames.filter(n => n.startsWith(NEXT)).map(n => n.slice(NEXT.length));
    t.tasks = t.session.outputNames.filter(n => n.startsWith("mtbal/weight/")).map(n => n.slice("mtbal/weight/".length));
    t.reset();
    return t;
  }

  tensor({ type, dims, data }) {
    return new this.ort.Tensor(type, data.slice(), dims);
  }

  // Everything as it was stored: parameters, moments, calibrations, hyper-parameters.
  reset() {
    for (const old of Object.values(this.kept ?? {})) old.dispose();
    this.kept = Object.fromEntries(Object.entries(this.initial).map(([name, a]) => [name, this.tensor(a)]));
  }

  // A hyper-parameter, such as mtbal/lr, or any other scalar state.
  set(name, value) {
    this.kept[name] = new this.ort.Tensor("float32", [value], []);
  }

  // The weights are c / G: with the G that `mtbal-calibrate` measured, or with 1 for every task, which is equal weights.
  calibrated(yes) {
    for (const task of this.tasks) this.set(`mtbal/calibration/${task}`, yes ? this.initial[`mtbal/calibration/${task}`].data[0] : 1);
  }

  feeds(arrays, order) {
    return Object.fromEntries(this.session.inputNames.filter(n => n in arrays).map(name => {
      const { type, dims, data } = arrays[name], width = data.length / dims[0];
      const batch = new data.constructor(order.length * width);
      order.forEach((sample, i) => batch.set(data.subarray(sample * width, (sample + 1) * width), i * width));
      return [name, new this.ort.Tensor(type, batch, [order.length, ...dims.slice(1)])];
    }));
  }

  // One training step over the samples `order` of the data. Gives {task: {loss, weight, norm}}.
  async step(arrays, order) {
    const numbers = this.tasks.flatMap(t => [t, `mtbal/weight/${t}`, `mtbal/grad_norm/${t}`]);
    const out = await this.session.run({ ...this.feeds(arrays, order), ...this.kept }, [...numbers, ...this.states.map(s => NEXT + s)]);
    for (const state of this.states) {
      this.kept[state].dispose();
      this.kept[state] = out[NEXT + state];
    }
    const read = await Promise.all(numbers.map(async n => (await out[n].getData(true))[0]));
    return Object.fromEntries(this.tasks.map((t, i) => [t, { loss: read[3 * i], weight: read[3 * i + 1], norm: read[3 * i + 2] }]));
  }

  // The network's own outputs as {name: data}, and nothing is learnt: the next states are not taken.
  async evaluate(arrays, order) {
    const names = this.session.outputNames.filter(n => !n.startsWith("mtbal/"));
    const out = await this.session.run({ ...this.feeds(arrays, order), ...this.kept }, names);
    return Object.fromEntries(await Promise.all(names.map(async n => [n, await out[n].getData(true)])));
  }

  // For writeNpz, and then: mtbal-rewrite --inference SPLIT.onnx --states STATES.npz MODEL.onnx
  async saved() {
    const entries = Object.entries(this.kept).map(async ([name, t]) => [name, { type: t.type, dims: t.dims, data: await t.getData() }]);
    return Object.fromEntries(await Promise.all(entries));
  }
}
