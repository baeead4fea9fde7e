// Chromium as the checks of the page use it: what must not happen on a page, and what axe says of it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RUN_AXE = `axe.run(document).then((r) => r.violations.map((v) => ({ id: v.id, impact: v.impact,
  nodes: v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + " | " + n.failureSummary.slice(0, 200)) })))`;

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });

/** A page, and what went wrong on it: errors, dialogs, and requests to anything that does not begin with `base`. */
export async function open(browser, address, base, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, bypassCSP: false, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("dialog", (dialog) => {
    faults.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!/^(data:|blob:)/.test(url) && !url.startsWith(base) && url !== address) faults.push(`request to ${url}`);
  });
  await page.goto(address);
  return { page, faults, close: () => context.close() };
}

/** Fails on what axe calls serious or critical; prints everything it finds. */
export async function checkAccess(page, where) {
  // axe is added by the debugger, which the page's policy does not hold for.
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axe });
  const { result } = await session.send("Runtime.evaluate", {
    awaitPromise: true,
    returnByValue: true,
    expression: RUN_AXE,
  });
  const faults = result.value;
  console.log(`axe, ${where}: ${faults.length ? JSON.stringify(faults, null, 1) : "nothing"}`);
  assert.deepEqual(
    faults.filter(({ impact }) => impact === "serious" || impact === "critical"),
    [],
  );
}

const CATEGORIES = ["disabled-by-default-devtools.timeline", "devtools.timeline", "toplevel", "__metadata"];

/** Milliseconds of all tasks, and of the longest one, while `act` runs; from Chromium's trace. */
export async function traced(browser, act) {
  const session = await browser.newBrowserCDPSession();
  const events = [];
  session.on("Tracing.dataCollected", ({ value }) => events.push(...value));
  const done = new Promise((complete) => session.on("Tracing.tracingComplete", complete));
  await session.send("Tracing.start", { traceConfig: { includedCategories: CATEGORIES } });
  await act();
  await session.send("Tracing.end");
  await done;
  await session.detach();
  const threadOf = ({ pid, tid }) => `${pid} ${tid}`;
  const mains = new Set(
    events.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map(threadOf),
  );
  const tasks = events
    .filter((e) => e.name === "RunTask" && mains.has(threadOf(e)) && e.tdur)
    .map((e) => e.tdur / 1000);
  return { traced: tasks.reduce((sum, each) => sum + each, 0), longest: Math.max(0, ...tasks) };
}
