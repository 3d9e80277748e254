// Trains artifacts of `mtbal-rewrite --target ort-training` in ONNX Runtime's own TrainingSession, in Node.js.
// node train.mjs ONNXRUNTIME_WEB JOBS.json RESULTS.json
// A job: {folder, steps, inputs: {name: {type, dims, data}}, rates: the learning rate of each step, or null}
// Its result: {names, steps: [{output: value}], eval: [values], params: [all, as one buffer]}, or {error}
import {readFileSync, writeFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';

const [library, jobsFile, resultFile] = process.argv.slice(2);
const dist = resolve(library, 'dist');
const module = await import(pathToFileURL(join(dist, 'ort.training.wasm.min.mjs')));
const ort = module.default?.TrainingSession ? module.default : module;
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(join(dist, 'ort-training-wasm-simd-threaded.wasm'));

const kinds = {float32: Float32Array, int64: BigInt64Array, int32: Int32Array, float64: Float64Array, bool: Uint8Array};
const value = tensor => tensor.dims.length ? Array.from(tensor.data, Number) : Number(tensor.data[0]);
const values = results => Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, value(tensor)]));

async function train(job) {
    const result = {steps: []};
    const part = name => new Uint8Array(readFileSync(join(job.folder, name)));
    const session = await ort.TrainingSession.create({
        checkpointState: part('checkpoint'), trainModel: part('training_model.onnx'),
        evalModel: part('eval_model.onnx'), optimizerModel: part('optimizer_model.onnx')});
    result.names = session.trainingOutputNames;
    const feeds = {};
    for (const [name, {type, dims, data}] of Object.entries(job.inputs))
        feeds[name] = new ort.Tensor(type, kinds[type].from(data, type === 'int64' ? BigInt : Number), dims);
    const inOrder = names => Object.fromEntries(names.map(name => [name, feeds[name]])); // the order counts
    for (let i = 0; i < job.steps; i++) {
        if (job.rates) // the learning rate as an input: these sessions have no setter
            feeds['mtbal/lr'] = new ort.Tensor('float32', [job.rates[i]], []);
        result.steps.push(values(await session.runTrainStep(inOrder(session.trainingInputNames))));
        await session.runOptimizerStep();
        await session.lazyResetGrad();
    }
    result.eval = Object.values(values(await session.runEvalStep(inOrder(session.evalInputNames))));
    // once, and last of all: it frees memory that is not its own (onnxruntime-web 1.17 to 1.19.2)
    result.params = Array.from((await session.getContiguousParameters(false)).data);
    return result;
}

const results = [];
for (const job of JSON.parse(readFileSync(jobsFile)))
    results.push(await train(job).catch(error => ({error: String(error?.stack ?? error)})));
writeFileSync(resultFile, JSON.stringify(results));
