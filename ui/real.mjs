// Opens the page as users do, in Chromium: from `ww-callbacks serve`, from one file, in the tab of TensorBoard, and as a
// comparison of models. A run is recorded first; what the page shows is compared with its JSON lines.
//
//   PYTHON=../.venv/bin/python node real.mjs [FOLDER_OF_PICTURES]
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkAccess, launch, open } from "./checks.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const python = process.env.PYTHON ?? "python3";
const pictures = process.argv[2] ?? "";
if (pictures) mkdirSync(pictures, { recursive: true });
const folder = mkdtempSync(join(tmpdir(), "page-"));
const runs = join(folder, "runs");
const servers = [];

function call(...words) {
  const done = spawnSync(python, words, { cwd: root, encoding: "utf8", timeout: 240_000 });
  assert.equal(done.status, 0, done.stderr);
}

/** Starts a server; the address is what the pattern finds in its output. */
async function start(pattern, ...words) {
  const child = spawn(python, words, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  servers.push(child);
  let text = "";
  const address = await new Promise((found, failed) => {
    const read = (data) => {
      text += data;
      const match = pattern.exec(text);
      if (match) found(match[0]);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("exit", () => failed(new Error(`the server ended: ${text}`)));
    setTimeout(() => failed(new Error(`no address within 120 s: ${text}`)), 120_000).unref();
  });
  return { address, stop: () => child.kill("SIGINT") };
}

const lines = () =>
  readFileSync(join(runs, "a", "ww_history.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
const shown = (value) => String(Number(value.toPrecision(3)));

/** Asks a new page what users ask first. Each answer is text in view, and true; none takes more than two clicks. */
async function checkQuestions(browser, address) {
  const reports = lines().filter((line) => line.layers);
  const run = await (await fetch(`${address}api/run?id=a&from=0`)).json();
  const worst = run.findings.find((finding) => finding.until === null);
  const { finding } = lines().findLast((line) => line.finding?.kind === worst.kind);
  assert.equal(worst.text, finding.text);
  const layer = run.layers[worst.layers[0]].name;
  const curve = (name) => run.curves.find((each) => each.name === name).values;
  const questions = {
    "which layer is worst, and why": async (page) => {
      assert.equal(await page.locator("#spectrum-title bdi").textContent(), layer);
      return page.locator(".finding-text").first();
    },
    "since when": async (page) => page.locator(".finding").first(),
    "did the rate help": async (page, click) => {
      await click(page.getByLabel("learning rate"));
      return page.locator(".rate");
    },
    "is it near a stop": async (page) => page.locator(".rules"),
    "what did it look like at step 300": async (page, click) => {
      await click(page.getByLabel("step", { exact: true }));
      await page.keyboard.type("300");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.querySelector(".step input").value === "300");
      const { alpha } = reports.find(({ step }) => step === 300).layers.find(({ name }) => name === layer);
      await page.waitForFunction((a) => document.querySelector(".facts dd").textContent.startsWith(a), shown(alpha));
      return page.locator(".judgement");
    },
  };
  const alpha = run.summary.alpha.slice(-5).sort((a, b) => a - b)[2];
  const percent = (score) => `${Math.round(100 * score.findLast((each) => each !== null))} %`;
  const truths = {
    "which layer is worst, and why": [finding.text],
    "since when": [`since step ${finding.since}`],
    "did the rate help": [
      "lr was 0.02 at step 180, 0.002 at step 200.",
      `val_loss 2 → ${shown(curve("val_loss").at(-1))}`,
      `mean alpha`,
      `→ ${shown(alpha)}.`,
    ],
    "is it near a stop": [run.stop, ...run.rules.map(({ label, score }) => `${label}${percent(score)}`)],
    "what did it look like at step 300": ["alpha", "shuffled alpha", "traps"],
  };
  const rows = [];
  for (const [question, ask] of Object.entries(questions)) {
    const { page, close } = await open(browser, `${address}#run=a`, address);
    await page.waitForSelector(".judgement");
    let clicks = 0;
    const answer = await ask(page, async (target) => {
      clicks += 1;
      await target.click();
    });
    const text = (await answer.textContent()).replace(/\s+/g, " ");
    for (const truth of truths[question]) assert.ok(text.includes(truth), `${question}: "${text}" has no "${truth}"`);
    assert.ok(await answer.isVisible());
    assert.ok(clicks <= 2, `${question}: ${clicks} clicks`);
    rows.push({ question, clicks, answer: text.length > 90 ? `${text.slice(0, 89)}…` : text });
    await close();
  }
  console.table(rows);
}

/** Clicks a cell, and compares what is said of it with the JSON lines of the run. */
async function checkCell(page, frame) {
  await frame.waitForSelector(".map .u-over");
  await frame.waitForFunction(() => document.querySelector(".judgement"));
  const box = await frame.locator(".map .u-over").boundingBox();
  const said = () => frame.locator("[role=status]").first().textContent();
  const before = await said();
  await page.mouse.click(box.x + box.width * 0.4, box.y + 12);
  await frame.waitForFunction((old) => document.querySelector("[role=status]").textContent !== old, before);
  const [, name, step, alpha] = /^(\S+), step ([\d,]+), alpha.*? ([\d.]+)/.exec(await said());
  const report = lines().find((line) => line.layers && line.step === Number(step.replace(",", "")));
  const layer = report.layers.find((each) => each.name === name);
  assert.equal(alpha, shown(layer.alpha));
  await frame.waitForFunction((value) => document.querySelector(".facts dd").textContent.startsWith(value), alpha);
  await frame.locator("[data-keys=map]").focus();
  await page.keyboard.press("ArrowLeft");
  await frame.waitForFunction((old) => document.querySelector(".step input").value !== old, step);
  console.log(`${name} at step ${step}: alpha ${alpha}, as in the JSON lines`);
}

/** Clicks a layer of a comparison: the numbers are those of the models, and both spectra are drawn. */
async function checkComparison(page, names, alphas) {
  await page.waitForFunction(() => document.querySelector(".verdict li"));
  assert.match(await page.locator(".verdict .words").first().textContent(), /^tuned against base: 1 of 5 layers/);
  assert.match(await page.locator(".verdict li").first().textContent(), /^h\.1: scale collapse: λ_max fell to 0\.0025/);
  await page.waitForFunction((n) => document.querySelectorAll(".changes tbody tr").length === n, names.length);
  for (const name of names.filter((each) => alphas.every((model) => model[each]))) {
    const row = page.locator(".changes tbody tr").filter({ has: page.getByText(name, { exact: true }) });
    await row.locator("button").click();
    await page.waitForFunction((n) => document.querySelector("#spectrum-title bdi").textContent === n, name);
    const cells = await row.locator("td.number").allTextContents();
    assert.deepEqual(
      cells.slice(0, 2),
      alphas.map((model) => String(Number(model[name].toPrecision(3)))),
    );
    await page.waitForFunction((alpha) => document.querySelector(".facts dd").textContent.startsWith(alpha), cells[1]);
    await page.waitForFunction(() => /baseline/.test(document.querySelector(".spectrum-keys").textContent));
    console.log(`${name}: alpha ${cells.slice(0, 2).join(", then ")}, as in the reports`);
  }
  await page.getByRole("button", { name: "layer", exact: true }).click();
  const sorted = await page.locator(".changes tbody th").allTextContents();
  assert.deepEqual(sorted, [...sorted].sort(new Intl.Collator("en", { numeric: true }).compare));
}

const picture = (page, name) => pictures && page.screenshot({ path: join(pictures, `${name}.png`) });

call(join("tests", "page", "recorded.py"), runs);
const browser = await launch();
try {
  {
    const server = await start(/http:\S+/, "-m", "ww_callbacks", "serve", runs);
    const { page, faults, close } = await open(browser, `${server.address}#run=a`, server.address);
    await checkCell(page, page);
    await checkAccess(page, "ww-callbacks serve");
    await picture(page, "serve");
    await page.goto(`${server.address}#run=names`);
    await page.reload();
    await page.waitForFunction(() => document.body.textContent.includes("<script>alert(1)</script>"));
    await checkAccess(page, "names from outside");
    await picture(page, "names");
    assert.deepEqual(faults, []);
    await close();
    await checkQuestions(browser, server.address);
    server.stop();
  }
  {
    const file = join(folder, "report.html");
    call("-m", "ww_callbacks", "serve", join(runs, "a"), "-o", file);
    const { page, faults, close } = await open(browser, `file://${file}`, "data:");
    await checkCell(page, page);
    await checkAccess(page, "one file");
    assert.deepEqual(faults, []);
    await close();
  }
  {
    const file = join(folder, "comparison.html");
    const models = ["base", "tuned"].map((name) => join(folder, `${name}.npz`));
    call("-m", "ww_callbacks", "compare", ...models, "--quality", "1", "2", "-o", file);
    const alphas = models.map((model) => {
      call("-m", "ww_callbacks", "analyze", model, "-o", `${model}.json`);
      const { layers } = JSON.parse(readFileSync(`${model}.json`, "utf8"));
      return Object.fromEntries(layers.map(({ name, alpha }) => [name, alpha]));
    });
    const { page, faults, close } = await open(browser, `file://${file}`, "data:");
    await checkComparison(page, [...new Set(alphas.flatMap(Object.keys))], alphas);
    await checkAccess(page, "comparison");
    await picture(page, "comparison");
    await page.setViewportSize({ width: 400, height: 850 });
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, "it is too wide");
    await checkAccess(page, "comparison, narrow");
    await page.getByRole("link", { name: "base", exact: true }).click();
    await page.waitForFunction(() => /^base/.test(document.querySelector(".run-name").textContent));
    assert.deepEqual(faults, []);
    await close();
  }
  {
    const words = ["-m", "tensorboard.main", "--logdir", runs, "--port", "0", "--host", "127.0.0.1"];
    const server = await start(/http:\/\/127\.0\.0\.1:\d+\//, ...words);
    const { page, faults, close } = await open(browser, `${server.address}#ww_spectra`, server.address);
    const element = await page.waitForSelector("iframe[src*=ww_spectra]");
    const frame = await element.contentFrame();
    await checkCell(page, frame);
    await picture(page, "tensorboard");
    // TensorBoard's own page may log errors; none may come from the frame, and nothing may go to another host.
    assert.deepEqual(
      faults.filter((fault) => /request to|ww_spectra|dialog/.test(fault)),
      [],
    );
    await close();
    server.stop();
  }
} finally {
  for (const server of servers) server.kill("SIGKILL"); // also after a failure; one that has ended is left alone
  await browser.close();
  rmSync(folder, { recursive: true });
}
console.log("all is well");
