// The page: trains the demo model while it is looked at. ?order=file takes the samples as they come, ?epochs=N stops after
// N of them, ?run starts at once.
import { drawChart, drawDigit } from "./chart.mjs";
import { writeNpz } from "./npz.mjs";
import { Trainer, arraysOf, sampleCount } from "./train.mjs";

const $ = id => document.getElementById(id);
const query = new URLSearchParams(location.search);
const SHOWN = 12; // test pictures
const NAMES = { loss_digit: "which digit", loss_clean: "without noise" };
const frame = () => new Promise(requestAnimationFrame);
const shorter = x => x.toPrecision(3).replace(/\.?0+($|e)/, "$1");

let trainer, train, test;
let running = false, busy = Promise.resolve();
let run = null, before = null; // histories: {task: {loss: [], norm: [], weight: [], pull: []}}

// ---------------------------------------------------------------- training

function begin() {
  before = run?.steps ? run : before;
  const lists = () => ({ loss: [], norm: [], weight: [], pull: [] });
  run = { steps: 0, epoch: 0, order: [], at: 0, ms: 0, sums: {}, of: Object.fromEntries(trainer.tasks.map(t => [t, lists()])) };
  trainer.reset();
  $("epochs").replaceChildren();
}

function nextBatch() {
  if (run.at >= run.order.length) {
    run.order = Array.from({ length: sampleCount(train) }, (_, i) => i);
    if (query.get("order") !== "file")
      for (let i = run.order.length - 1; i > 0; i--) {
        const k = Math.floor(Math.random() * (i + 1));
        [run.order[i], run.order[k]] = [run.order[k], run.order[i]];
      }
    run.at = 0, run.batches = 0;
    run.sums = Object.fromEntries(trainer.tasks.map(t => [t, 0]));
  }
  const batch = run.order.slice(run.at, run.at += Number($("batch").value));
  run.batches++;
  return batch;
}

async function step() {
  const batch = nextBatch(), start = performance.now();
  trainer.set("mtbal/lr", 10 ** Number($("lr").value));
  trainer.calibrated(document.forms.controls.weights.value === "calibrated");
  const result = await trainer.step(train, batch);
  run.ms += 0.05 * (performance.now() - start - run.ms);
  run.steps++;
  for (const [task, { loss, norm, weight }] of Object.entries(result)) {
    const of = run.of[task];
    of.loss.push(loss), of.norm.push(norm), of.weight.push(weight), of.pull.push(weight * norm);
    run.sums[task] += loss;
  }
  if (run.at >= run.order.length) endEpoch();
}

function endEpoch() {
  const cells = [++run.epoch, ...trainer.tasks.map(t => (run.sums[t] / run.batches).toPrecision(6))];
  const row = $("epochs").insertRow();
  for (const text of cells) row.insertCell().textContent = text;
  if (run.epoch === Number(query.get("epochs"))) running = false;
}

async function loop() {
  $("run").textContent = "Pause";
  for (let frames = 0; running; frames++) {
    for (let i = Number($("speed").value); i > 0 && running; i--) await step();
    if (frames % 8 === 0) await look();
    draw();
    await frame();
  }
  await look();
  draw();
  $("run").textContent = "Start";
}

// ---------------------------------------------------------------- what is seen

// All test pictures through the network: the first of them are shown.
async function look() {
  const all = Array.from({ length: sampleCount(test) }, (_, i) => i), labels = test.label.data;
  const { pred_digit: scores, pred_clean: clean } = await trainer.evaluate(test, all);
  const guesses = all.map(i => scores.subarray(10 * i, 10 * i + 10)).map(s => s.indexOf(Math.max(...s)));
  run.accuracy = all.filter(i => guesses[i] === Number(labels[i])).length / all.length;
  $("accuracy").textContent = `${(100 * run.accuracy).toFixed(1)} % of ${all.length} right` +
    (before?.accuracy ? ` (before: ${(100 * before.accuracy).toFixed(1)} %)` : "");
  [...$("digits").children].forEach((figure, i) => {
    const [noisy, denoised] = figure.querySelectorAll("canvas"), right = guesses[i] === Number(labels[i]);
    drawDigit(noisy, test.x.data.subarray(64 * i, 64 * i + 64));
    drawDigit(denoised, clean.subarray(64 * i, 64 * i + 64));
    const caption = figure.querySelector("figcaption");
    caption.textContent = `${right ? "✓" : "✗"} says ${guesses[i]}${right ? "" : `, is ${labels[i]}`}`;
    caption.className = right ? "right" : "wrong";
  });
}

function draw() {
  $("status").className = "";
  $("status").textContent = `epoch ${run.epoch}, step ${run.steps}, ${run.ms.toFixed(2)} ms a step`;
  for (const canvas of document.querySelectorAll("canvas[data-of]")) {
    const kind = canvas.dataset.of, tasks = trainer.tasks;
    const lines = history => tasks.map((t, i) => ({ color: `--task-${i}`, values: history.of[t][kind], faint: history === before }));
    drawChart(canvas, [...(before ? lines(before) : []), ...lines(run)]);
    [...canvas.previousElementSibling.children].forEach((entry, i) => {
      const recent = run.of[tasks[i]][kind].slice(-32);
      entry.lastChild.textContent = `${NAMES[tasks[i]] ?? tasks[i]} ` +
        (recent.length ? shorter(recent.reduce((a, b) => a + b) / recent.length) : "");
    });
  }
}

function furnish() {
  $("digits").innerHTML = "<figure><canvas></canvas><canvas></canvas><figcaption></figcaption></figure>".repeat(SHOWN);
  for (const legend of document.querySelectorAll(".legend"))
    legend.innerHTML = trainer.tasks.map((_, i) => `<span><i style="background: var(--task-${i})"></i><span></span></span>`).join("");
  const head = document.querySelector("thead tr");
  for (const task of trainer.tasks) head.append(Object.assign(document.createElement("th"), { textContent: task }));
}

// ---------------------------------------------------------------- controls

// One thing at a time: a session runs one step, and a reset waits for it.
function then(action) {
  busy = busy.then(action).catch(problem => {
    running = false;
    $("status").textContent = problem.message ?? String(problem);
    $("status").className = "failed";
  });
  return busy;
}

const pause = () => { running = false; };
const start = () => { running = true; return then(loop); };
const open = async () => {
  const wanted = $("runtime").value;
  $("status").textContent = "loading";
  $("runtime").value = "wasm"; // where the other cannot be had
  trainer = await Trainer.open("step.onnx", "states.npz", wanted);
  $("runtime").value = wanted;
  begin();
};
const showRate = () => { $("lr-shown").textContent = (10 ** Number($("lr").value)).toPrecision(2); };

$("run").onclick = () => running ? pause() : start();
$("reset").onclick = () => { pause(); then(async () => { begin(); await look(); draw(); }); };
$("runtime").onchange = () => {
  pause();
  then(async () => { await open(); await look(); draw(); });
};
$("lr").oninput = showRate;
$("save").onclick = () => then(async () => {
  const url = URL.createObjectURL(new Blob([await writeNpz(await trainer.saved())]));
  Object.assign(document.createElement("a"), { href: url, download: "states.npz" }).click();
  URL.revokeObjectURL(url);
});
for (const event of [matchMedia("(prefers-color-scheme: dark)"), window])
  event.addEventListener(event === window ? "resize" : "change", () => run && draw());

showRate();
$("runtime-choice").hidden = !navigator.gpu;
await then(async () => {
  [train, test] = await Promise.all([arraysOf("train.npz"), arraysOf("test.npz")]);
  await open();
  furnish();
  await look();
  draw();
  for (const id of ["run", "reset", "save"]) $(id).disabled = false;
});
if (query.has("run") && trainer) start();
