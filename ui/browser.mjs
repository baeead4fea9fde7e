// Opens the page in Chromium on the development server: clicks, keys, axe, no error, no foreign request, times, pictures.
//
//   node browser.mjs [FOLDER_OF_PICTURES]
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { checkAccess, launch, open as openPage, traced } from "./checks.mjs";
import { oneFile, RUNS, start } from "./dev.mjs";

const pictures = process.argv[2] ?? "";
if (pictures) mkdirSync(pictures, { recursive: true });
const server = await start();
const base = `http://127.0.0.1:${server.address().port}/`;
// The made-up numbers are computed before anything is timed.
for (const id of RUNS.keys()) await (await fetch(`${base}api/run?id=${id}&from=0`)).arrayBuffer();
const browser = await launch();

async function open(hash, options = {}, check = true) {
  const opened = await openPage(browser, hash.startsWith("file:") ? hash : base + hash, base, options);
  await opened.page.waitForSelector(".course .u-over, .note.big, .banner.serious");
  return {
    page: opened.page,
    close: async () => {
      if (check) assert.deepEqual(opened.faults, []);
      await opened.close();
    },
  };
}

const picture = (page, name, more = {}) =>
  pictures && page.screenshot({ path: join(pictures, `${name}.png`), ...more });
const ready = (page) =>
  page.waitForFunction(
    () => performance.getEntriesByName("ww-map-drawn").length > 0 && document.querySelector(".judgement"),
  );
const label = (page) => page.locator("[role=status]").first().textContent();

// first paint
{
  const { page, close } = await open("#run=big");
  await ready(page);
  const times = await page.evaluate(() => {
    const of = (name) => performance.getEntriesByName(name)[0]?.startTime ?? Number.NaN;
    const answers = performance.getEntriesByType("resource").filter((r) => r.name.includes("/api/"));
    const drawn = performance.getEntriesByName("ww-map-drawn")[0]?.startTime;
    return {
      firstContent: of("first-contentful-paint"),
      lastAnswer: Math.max(...answers.filter((r) => r.responseEnd <= drawn).map((r) => r.responseEnd)),
      drawn,
      memory: performance.memory ? Math.round(performance.memory.usedJSHeapSize / 1e6) : 0,
    };
  });
  console.log("first paint (wall ms since navigation; the machine may be busy):", JSON.stringify(times));
  console.log("map drawn after the last answer, wall ms:", Math.round(times.drawn - times.lastAnswer));
  await page.waitForTimeout(1500);
  await picture(page, "light");
  await checkAccess(page, "live run");
  const before = await label(page);
  const over = page.locator(".map .u-over");
  const box = await over.boundingBox();
  const click = await traced(browser, async () => {
    await page.mouse.click(box.x + box.width * 0.5, box.y + 60);
    await page.waitForFunction((old) => document.querySelector("[role=status]").textContent !== old, before);
    await page.waitForTimeout(300);
  });
  console.log("click, main thread CPU ms:", JSON.stringify(click));
  const clicked = await label(page);
  assert.match(clicked, /^layers\..*, step [\d,]+, alpha/);
  // The value read aloud is the one in the answer for the cell.
  const cell = await page.evaluate(() =>
    performance
      .getEntriesByType("resource")
      .map((r) => r.name)
      .filter((n) => n.includes("/api/cell"))
      .at(-1),
  );
  const { values } = await (await fetch(cell)).json();
  await page.waitForFunction(
    (alpha) => document.querySelector(".facts dd").textContent.startsWith(alpha),
    Number(values.alpha.toPrecision(3)).toString(),
  );
  assert.match(clicked, new RegExp(`alpha ${Number(values.alpha.toPrecision(3))}`));
  await page.locator("[data-keys=map]").focus();
  const step = () => page.locator(".step input").inputValue();
  const at = await step();
  await page.keyboard.press("ArrowLeft");
  await page.waitForFunction((old) => document.querySelector(".step input").value !== old, at);
  const name = await page.locator("#spectrum-title bdi").textContent();
  await page.keyboard.press("ArrowDown");
  await page.waitForFunction((old) => document.querySelector("#spectrum-title bdi").textContent !== old, name);
  await page.keyboard.press("b");
  await page.waitForSelector(".pinned");
  await page.keyboard.press("n");
  await page.waitForTimeout(800);
  await picture(page, "baseline");
  await page.keyboard.press("?");
  await page.waitForSelector("dialog[open]");
  await checkAccess(page, "help");
  await picture(page, "help");
  await page.keyboard.press("Escape");
  const hash = await page.evaluate(() => location.hash);
  assert.match(hash, /run=big&column=alpha&layer=layers.*&step=\d+/);
  // A finding answers with one click.
  await page.locator(".finding-main").first().click();
  await page.waitForFunction(
    () => document.querySelector("#spectrum-title bdi").textContent === "layers.3.mlp.gate_proj",
  );
  assert.match(await step(), /^7,600$/);
  await page.waitForTimeout(600);
  await picture(page, "trap");
  await page.keyboard.press("l");
  const updates = [];
  await page.waitForTimeout(4000);
  for (let i = 0; i < 4; i++) {
    // Nothing is asked of the page while it is measured: what is counted is one update and two ticks of the clock.
    const drawn = await page.evaluate(() => Number(document.querySelector(".grid").dataset.updates));
    const cost = await traced(browser, () => page.waitForTimeout(2100));
    const more = await page.evaluate((n) => Number(document.querySelector(".grid").dataset.updates) - n, drawn);
    updates.push({ ...cost, updates: more });
  }
  console.log("2.1 s of a live page, main thread CPU ms:", JSON.stringify(updates));
  await page.locator(".layers").scrollIntoViewIfNeeded();
  await page.waitForFunction(
    () =>
      document.querySelectorAll(".layers tbody tr").length > 200 &&
      !document.querySelector(".layers tbody").textContent.includes("NaN"),
  );
  await page.getByRole("button", { name: "alpha", exact: true }).click();
  await page.locator(".compare select").first().selectOption("big2");
  await page.waitForSelector(".compare tbody tr");
  await page.waitForTimeout(1000);
  await page.locator(".compare").scrollIntoViewIfNeeded();
  await picture(page, "tables");
  await checkAccess(page, "tables");
  await page.emulateMedia({ media: "print" });
  await picture(page, "print", { fullPage: true });
  await page.emulateMedia({ media: "screen" });
  await page.getByRole("button", { name: "by kind" }).click();
  await page.locator(".course select").first().selectOption("update_norm");
  await page.waitForTimeout(800);
  await page.evaluate(() => scrollTo(0, 0));
  await picture(page, "kinds");
  await page.locator(".course select").first().selectOption("lr_ratio");
  await page.getByRole("button", { name: "close all" }).click();
  await page.waitForTimeout(800);
  await picture(page, "closed");
  await close();
}

// dark, with the names of layers
{
  const { page, close } = await open("#run=big&step=8000", { colorScheme: "dark" });
  await ready(page);
  await page.getByRole("button", { name: "names" }).click();
  await page.getByRole("button", { name: "cumulative" }).click();
  await page.locator(".run-name").click();
  await page.waitForTimeout(600);
  await picture(page, "runs");
  await checkAccess(page, "list of runs");
  await page.keyboard.press("Escape");
  const over = await page.locator(".map .u-over").boundingBox();
  await page.mouse.move(over.x + over.width * 0.6, over.y + 130);
  await page.waitForTimeout(300);
  await picture(page, "dark");
  await checkAccess(page, "dark");
  await close();
}

for (const [name, hash, options] of [
  ["narrow", "#run=big", { viewport: { width: 400, height: 850 } }],
  ["finished", "#run=finished", {}],
  ["small", "#run=small", { deviceScaleFactor: 2 }],
  ["empty", "#run=empty", {}],
  ["broken", "#run=broken", {}],
  ["hostile", "#run=hostile", {}],
  ["nothing", "#run=nothing", {}],
]) {
  const { page, close } = await open(hash, options);
  if (!["empty", "broken"].includes(name)) await ready(page);
  await page.waitForTimeout(1200);
  await picture(page, name, { fullPage: name === "narrow" });
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0, `${name} is too wide`);
  await checkAccess(page, name);
  await close();
}

// One file, opened from disk: the same page without a server.
{
  const file = join(mkdtempSync(join(tmpdir(), "page-")), "report.html");
  const text = await oneFile(["big2", "small", "hostile", "finished"]);
  writeFileSync(file, text);
  console.log(
    `one file with 4 runs, the largest 227 layers x 600 steps with spectra of 7: ${(text.length / 1e6).toFixed(1)} MB`,
  );
  const { page, close } = await open(`file://${file}`);
  await ready(page);
  const over = await page.locator(".map .u-over").boundingBox();
  await page.mouse.click(over.x + over.width * 0.42, over.y + 60);
  await page.waitForFunction(() => /nearest one/.test(document.querySelector(".spectrum .note")?.textContent ?? ""));
  await page.waitForTimeout(500);
  await picture(page, "file");
  await checkAccess(page, "one file");
  await close();
  rmSync(dirname(file), { recursive: true });
}

// An old link leads to a run that is there.
{
  const { page, close } = await open("#run=gone&layer=x&step=3", {}, false);
  await ready(page);
  assert.match(await page.locator(".run-name").textContent(), /version_3/);
  // A drag shows a part of the steps and chooses nothing; a double click shows all.
  const over = await page.locator(".map .u-over").boundingBox();
  const hash = await page.evaluate(() => location.hash);
  await page.mouse.move(over.x + 100, over.y + 50);
  await page.mouse.down();
  await page.mouse.move(over.x + 300, over.y + 60, { steps: 4 });
  await page.mouse.up();
  await page.getByRole("button", { name: "all steps" }).waitFor();
  assert.equal(await page.evaluate(() => location.hash), hash);
  await page.waitForTimeout(300);
  await picture(page, "zoomed");
  await page.getByRole("button", { name: "all steps" }).click();
  await page.evaluate(() => {
    location.hash = "#run=small&column=D&layer=layers.1.attn.q_proj&step=300";
  });
  await page.waitForFunction(
    () => document.querySelector("#spectrum-title bdi")?.textContent === "layers.1.attn.q_proj",
  );
  assert.match(await page.locator(".step input").inputValue(), /^300$/);
  await close();
}

// The server goes away: a sentence, and the page stays.
{
  const { page, close } = await open("#run=small", {}, false);
  await ready(page);
  await page.route("**/api/**", (route) => route.abort());
  await page.waitForSelector(".banners .serious");
  assert.match(await page.locator(".banners .serious").textContent(), /cannot be reached/);
  await page.unroute("**/api/**");
  await page.waitForFunction(() => !document.querySelector(".banners .serious"));
  await close();
}
await browser.close();
server.close();
console.log("all is well");
