// Measures the page in Chromium with 227 layers and 970 steps that grow: one more step, and a click on a cell.
//
//   node measure.mjs [FOLDER_OF_ANOTHER_BUILD]
//
// Each act is measured with Chromium's trace, which costs time itself, and without it. All times are of the processor,
// of the page's main thread, and medians. Another build, such as an earlier one, is measured in turns with this one.
import { launch, open, traced } from "./checks.mjs";
import { BUILD, start } from "./dev.mjs";

const TURNS = 2;
const ROUNDS = 4;

/** Milliseconds of all tasks while `act` runs, as the page's process counts them itself. */
async function counted(session, act) {
  const total = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    return 1000 * metrics.find(({ name }) => name === "TaskDuration").value;
  };
  const before = await total();
  await act();
  return { counted: (await total()) - before };
}

/** Times of one build in a browser of its own: name of the act → what was measured in each round. */
async function measured(build) {
  const server = await start(0, build);
  const browser = await launch();
  try {
    const base = `http://127.0.0.1:${server.address().port}/`;
    const { page } = await open(browser, `${base}#run=big`, base);
    await page.waitForFunction(() => performance.getEntriesByName("ww-map-drawn").length > 0);
    await page.waitForSelector(".judgement");
    const session = await page.context().newCDPSession(page);
    await session.send("Performance.enable", { timeDomain: "threadTicks" });
    const box = await page.locator(".map .u-over").boundingBox();
    let clicks = 0;
    const acts = {
      // The page asks every two seconds: one more step, whatever else it takes.
      step: () => page.waitForTimeout(2100),
      click: async () => {
        clicks += 1;
        const [x, y] = [0.2 + 0.6 * ((clicks * 0.37) % 1), 20 + ((clicks * 53) % 300)];
        await page.mouse.click(box.x + box.width * x, box.y + y);
        await page.waitForTimeout(400);
      },
    };
    const found = {};
    for (const [name, act] of Object.entries(acts)) {
      await act(); // the first time is slower
      found[name] = [];
      for (let round = 0; round < ROUNDS; round++)
        found[name].push({ ...(await traced(browser, act)), ...(await counted(session, act)) });
    }
    return found;
  } finally {
    await browser.close();
    server.close();
  }
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

const builds = [BUILD, ...process.argv.slice(2)];
const found = builds.map(() => ({ step: [], click: [] }));
for (let turn = 0; turn < TURNS; turn++)
  for (const [i, build] of builds.entries())
    for (const [name, times] of Object.entries(await measured(build))) found[i][name].push(...times);
for (const name of ["step", "click"])
  for (const [i, build] of builds.entries()) {
    const of = (key) => median(found[i][name].map((each) => each[key])).toFixed(1);
    const words = `${of("traced")} ms with the trace, its longest task ${of("longest")} ms, ${of("counted")} ms without`;
    console.log(`${name}: ${words}${builds.length > 1 ? ` (${build})` : ""}`);
  }
