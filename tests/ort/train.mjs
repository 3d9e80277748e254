// Trains artifacts of `mtbal-rewrite --target ort-training` in ONNX Runtime's own TrainingSession, in Node.js.
// node train.mjs ONNXRUNTIME_WEB JOBS.json RESULTS.json
// A job: {folder, steps, inputs: {name: {type, dims, data}}, rates: the learning rate of each step, or null}
// Its result: {names, steps: [{output: value}], eval: [values], params: [all, as one buffer]}, or {error}
import {existsSync, readFileSync, writeFileSync} from 'node:fs';
import {join, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';

const [library, jobsFile, resultFile] = process.argv.slice(2);
const dist = resolve(library, 'dist');
const present = names => join(dist, names.find(name => existsSync(join(dist, name))));
const ort = await load(present(['ort.training.wasm.min.mjs', 'ort.training.wasm.min.js']));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = dist + '/';
ort.env.wasm.wasmBinary = readFileSync(present(['ort-training-wasm-simd-threaded.wasm', 'ort-training-wasm-simd.wasm']));

// 1.19 is an ES module; 1.17 and 1.18 are scripts that make a variable, and run in a page only: this looks like one.
async function load(file) {
    if (file.endsWith('.mjs'))
        return import(pathToFileURL(file));
    const fetch = async url => new Response(readFileSync(url), {headers: {'content-type': 'application/wasm'}});
    return new Function('process', 'window', 'fetch', readFileSync(file, 'utf8') + '\nreturn ort;')(undefined, {}, fetch);
}

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
