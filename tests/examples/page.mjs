// The page of examples/web in headless Chromium: it loads, trains and draws, without one message on the console.
//
//   page.mjs PLAYWRIGHT CHROMIUM FOLDER EPOCHS LR RESULT.json [SCREENSHOTS]
// RESULT.json: mean losses of each epoch, what was said on the console, and more. RESULT.json.npz: the states as the page
// saves them.
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const [playwright, executablePath, folder, epochs, lr, result, pictures] = process.argv.slice(2);
const { chromium } = await import(resolve(playwright, "index.mjs"));
const FLAGS = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];

const server = spawn(process.execPath, ["examples/web/serve.mjs", folder, "0"]);
const address = await new Promise(found => server.stdout.once("data", text => found(String(text).trim())));
const profile = await mkdtemp(join(tmpdir(), "mtbal-page-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath, args: FLAGS, headless: true, viewport: { width: 1100, height: 1000 } });
const said = [];

async function open(query, options = {}) {
  const page = await browser.newPage();
  page.on("console", m => ["error", "warning"].includes(m.type()) && said.push(m.text()));
  page.on("pageerror", e => said.push(String(e)));
  page.on("requestfailed", r => said.push(`${r.url()} failed`));
  await page.setViewportSize({ width: options.width ?? 1100, height: options.height ?? 1000 });
  await page.emulateMedia({ colorScheme: options.colors ?? "light" });
  await page.goto(address + query);
  await page.waitForSelector("#run:enabled", { timeout: 60000 });
  return page;
}

// Trains until `epochs` stand in the page's table.
async function train(page, epochs) {
  await page.$eval("#lr", (slider, x) => {
    slider.step = "any", slider.value = x;
    slider.dispatchEvent(new Event("input"));
  }, Math.log10(lr));
  await page.selectOption("#speed", "32");
  await page.click("#run");
  await page.waitForFunction(n => document.querySelectorAll("#epochs tr").length === n, epochs, { timeout: 60000 });
  await page.waitForFunction(() => document.getElementById("run").textContent === "Start");
  return page.$$eval("#epochs tr", all => all.map(r => [...r.cells].map(c => Number(c.textContent))));
}

// Against mtbal-run: samples in the file's order. Then the states as the page saves them.
async function exact(report) {
  const page = await open(`?order=file&epochs=${epochs}`);
  report.rows = await train(page, Number(epochs));
  report.heads = await page.$$eval("thead th", all => all.map(e => e.textContent));
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  await download.saveAs(`${result}.npz`);
  report.accuracy = parseFloat(await page.textContent("#accuracy"));
  report.blank = await page.$$eval("canvas", all => all.filter(c =>
    new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size < 5).length);
  await page.close();
}

// As a person would: equal weights, reset, calibrated ones; on a desk and on a phone, by day and by night.
async function looked(report, width, colors) {
  const n = pictures ? 20 : 2, page = await open(`?epochs=${n}`, { width, height: width < 600 ? 844 : 1000, colors });
  for (const weights of ["equal", "calibrated"]) {
    await page.click("#reset");
    await page.check(`input[value=${weights}]`);
    report[weights] = (await train(page, n)).at(-1);
  }
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wide > 0) said.push(`at ${width} pixels the page is ${wide} too wide`);
  if (pictures) await page.screenshot({ path: join(pictures, `web-${width}-${colors}.png`), fullPage: true });
  await page.close();
}

// The same on a graphics card, or what stands in for one.
async function onCard(report) {
  const page = await open("?order=file&epochs=1");
  if (!await page.evaluate(async () => await navigator.gpu?.requestAdapter())) return;
  await page.selectOption("#runtime", "webgpu");
  await page.waitForFunction(() => document.getElementById("status").textContent !== "loading", { timeout: 60000 });
  report.webgpu = await page.$eval("#runtime", e => e.value) === "webgpu" ? await train(page, 1) : null;
}

try {
  const report = { said };
  await exact(report);
  for (const [width, colors] of [[1100, "light"], [1100, "dark"], [390, "light"], [390, "dark"]]) await looked(report, width, colors);
  await onCard(report);
  await writeFile(result, JSON.stringify(report));
} finally {
  await browser.close();
  server.kill();
  await rm(profile, { recursive: true, force: true });
}
