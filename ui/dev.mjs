// A server for work on the page: it answers as ww_callbacks does, with made-up numbers. Node only.
//
//   node dev.mjs [PORT]
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { deflateSync } from "node:zlib";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of the build. */
export const BUILD = join(dirname(fileURLToPath(import.meta.url)), "..", "ww_callbacks", "page", "static");
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'";

/** Of all runs, which are never started again. */
const VERSION = "1";

/** Numbers in [0, 1) that depend on their arguments only. */
function noise(...keys) {
  let h = 2166136261;
  for (const key of keys) h = Math.imul(h ^ (key + 0x9e3779b9), 16777619) ^ (h >>> 13);
  h = Math.imul(h ^ (h >>> 16), 2246822507);
  return ((h ^ (h >>> 13)) >>> 0) / 4294967296;
}
const normal = (...keys) => Math.sqrt(-2 * Math.log(1 - noise(...keys, 1))) * Math.cos(2 * Math.PI * noise(...keys, 2));

const PARTS = [
  ["attn.q_proj", "1024 × 1024"],
  ["attn.k_proj", "1024 × 256"],
  ["attn.v_proj", "1024 × 256"],
  ["attn.o_proj", "1024 × 1024"],
  ["mlp.gate_proj", "4096 × 1024"],
  ["mlp.up_proj", "4096 × 1024"],
  ["mlp.down_proj", "4096 × 1024"],
];

function transformer(blocks, parts = PARTS) {
  const layers = [layer("embed_tokens", "Embedding", "embedding", "32000 × 1024", "")];
  for (let b = 0; b < blocks; b++) {
    const block = `layers.${b}`;
    layers.push(layer(`${block}.input_layernorm`, "RMSNorm", "norm", "1024", block, "it is a vector"));
    for (const [part, shape] of parts) layers.push(layer(`${block}.${part}`, "Linear", "matrix", shape, block));
  }
  layers.push(layer("norm", "RMSNorm", "norm", "1024", "", "it is a vector"));
  layers.push(layer("lm_head", "Linear", "matrix", "32000 × 1024", ""));
  return layers;
}

function layer(name, kind, role, shape, block, note = "", shown = name) {
  return { name, shown, kind, role, shape, block, note };
}

const column = (name, label, text, kind = "number", scale = "linear", centre = null, words = []) => ({
  name,
  label,
  text,
  kind,
  words,
  scale,
  centre,
});

const COLUMNS = [
  column(
    "alpha",
    "alpha (power-law exponent)",
    "The exponent of the power-law tail of the spectrum.",
    "number",
    "alpha",
  ),
  column(
    "rand_alpha",
    "rand_alpha (alpha of the shuffled weights)",
    "The control: alpha of the same elements in random order.",
    "number",
    "alpha",
  ),
  column("alpha_low", "alpha_low", "Lower end of the 95 % interval of alpha.", "number", "alpha"),
  column("alpha_high", "alpha_high", "Upper end of the 95 % interval of alpha.", "number", "alpha"),
  column("D", "D (Kolmogorov-Smirnov distance)", "Distance of the tail from the fitted law.", "number", "linear"),
  column("reliable", "reliable", "Whether a tail has formed.", "flag", "none"),
  column("num_traps", "num_traps", "Eigenvalues of the shuffled weights beyond both edges.", "count", "linear"),
  column("trap_size", "trap_size", "Largest shuffled eigenvalue, relative to the random edge.", "number", "log"),
  column("update_norm", "update_norm", "How far the layer moved since the previous snapshot.", "number", "log"),
  column("update_rank", "update_rank", "Number of directions in which the layer changed.", "count", "linear"),
  column("stable_rank", "stable rank", "Sum of the eigenvalues divided by the largest.", "number", "log"),
  column("warning", "warning", "Judgement of the tail.", "words", "none", null, [
    "",
    "over-trained",
    "under-trained",
    "no tail",
    "cannot be told",
  ]),
  column(
    "lr_ratio",
    "learning-rate ratio",
    "Factor by which the learning rate of the layer is multiplied.",
    "number",
    "diverging",
    1,
  ),
];

/** The values of one layer at one report; all made up. */
function values(run, l, r) {
  const step = run.step(r);
  const t = step / run.scaleOfSteps;
  const L = run.layers[l];
  if (L.note) return null;
  const s = run.seed;
  if (run.gap && r > run.gap[0] && r < run.gap[1]) return null;
  if (L.kind === "Embedding") return null;
  const start = 4.5 + 5 * noise(s, l, 3);
  const end = 2.2 + 2.6 * noise(s, l, 4);
  const speed = 2 + 5 * noise(s, l, 5);
  let alpha = end + (start - end) * Math.exp(-speed * t) + 0.06 * normal(s, l, r, 6);
  const bad = run.bad(l);
  if (bad === "over" && t > 0.45) alpha -= Math.min(2.2, 3.4 * (t - 0.45));
  if (bad === "stuck") alpha = 7.5 + 1.5 * noise(s, l, 9) + 0.5 * normal(s, l, r, 7);
  const formed = bad === "stuck" ? 2 : 0.02 + 0.2 * noise(s, l, 8);
  const reliable = t > formed ? 1 : 0;
  const trapped = bad === "trap" && t > 0.38;
  const k = 40 + Math.floor(80 * noise(s, l, 10));
  const sigma = (alpha - 1) / Math.sqrt(k);
  const numTraps = trapped ? 1 + Math.floor(4 * Math.max(0, t - 0.38)) : 0;
  return {
    alpha: Math.max(1.15, alpha),
    alpha_low: Math.max(1.1, alpha - 1.96 * sigma),
    alpha_high: alpha + 1.96 * sigma,
    sigma,
    rand_alpha: 8 + noise(s, l, 11) * 2 + 0.3 * normal(s, l, r, 12),
    D: 0.03 + 0.05 * noise(s, l, r, 13),
    reliable,
    num_traps: numTraps,
    trap_size: trapped ? 1.5 + 6 * (t - 0.38) : 1 + 0.02 * noise(s, l, r, 14),
    trap_kind: trapped ? "rows" : "",
    num_pl_spikes: k,
    num_evals: 1024,
    update_norm: 0.2 * Math.exp(-3 * t) * (0.6 + noise(s, l, 15)) + 0.002,
    update_rank: Math.round(30 * Math.exp(-2 * t) * noise(s, l, 16)) + 1,
    stable_rank: 150 * Math.exp(-2 * t) + 20 * noise(s, l, 17),
    warning: alpha + 1.96 * sigma < 2 ? 1 : !reliable ? 3 : alpha - 1.96 * sigma > 6 ? 2 : 0,
    lr_ratio: Math.exp(0.5 * normal(s, l, 18) * Math.min(1, 3 * t)),
    matrix_rank: 1024,
    entropy: 0.97 - 0.2 * t,
    norm: 1024,
    null: reliable ? "arranged" : "random",
  };
}

/** A spectrum whose tail has the exponent of the values. */
function cellOf(run, l, r) {
  const v = values(run, l, r);
  const step = run.step(r);
  if (!v)
    return {
      step,
      values: { reason: run.layers[l].note || "no fit: too few eigenvalues" },
      words: "not analysed",
      histogram: null,
      trap_places: null,
    };
  const [n, k] = [v.num_evals, v.num_pl_spikes];
  const [lowEdge, highEdge] = [0.2, 2.6];
  const xmin = 2.2;
  const eigenvalues = [];
  const control = [];
  for (let i = 0; i < n; i++) {
    const u = (i + 0.5) / n;
    const bulk = lowEdge * (highEdge / lowEdge) ** (0.5 - 0.5 * Math.cos(Math.PI * u ** 0.9));
    control.push(bulk);
    eigenvalues.push(i < n - k ? Math.min(bulk * 0.96, xmin) : 0);
  }
  for (let i = 0; i < k; i++) eigenvalues[n - 1 - i] = Math.min(xmin * ((i + 0.6) / k) ** (-1 / (v.alpha - 1)), 1e5);
  const maxRand = v.num_traps ? highEdge * v.trap_size : highEdge * 0.995;
  control[n - 1] = maxRand;
  const largest = Math.max(...eigenvalues);
  const [low, high] = [
    Math.log10(Math.min(...eigenvalues, ...control)),
    Math.log10(Math.max(largest, maxRand) * 1.001),
  ];
  const bins = 60;
  const histogram = (list) => {
    const counts = new Array(bins).fill(0);
    for (const e of list)
      counts[Math.min(bins - 1, Math.max(0, Math.floor(((Math.log10(e) - low) / (high - low)) * bins)))]++;
    return counts;
  };
  const words =
    v.warning === 1
      ? "over-trained: alpha below 2"
      : v.warning === 2
        ? "under-trained: alpha above 6"
        : !v.reliable
          ? "no tail has formed: alpha means nothing yet"
          : "a tail has formed; nothing stands out";
  return {
    step,
    words,
    values: {
      name: run.layers[l].name,
      ...v,
      warning: COLUMNS.find((c) => c.name === "warning").words[v.warning],
      reliable: !!v.reliable,
      xmin,
      xmax: largest,
      lambda_max: largest,
      max_rand_eval: maxRand,
      bulk_min: lowEdge,
      bulk_max: highEdge,
      num_spikes: eigenvalues.filter((e) => e > highEdge).length,
      dtype: "float32",
      status: "ok",
    },
    histogram: { low, high, counts: histogram(eigenvalues), rand_counts: histogram(control) },
    trap_places: v.num_traps
      ? [
          [[17], 9.3],
          [[203], 4.1],
        ]
      : null,
  };
}

const finding = (kind, title, text, action, alarm, since, layers, more = {}) => ({
  kind,
  title,
  text,
  action,
  alarm,
  confidence: "likely",
  since,
  step: since,
  until: null,
  layers,
  ...more,
});

function bigRun(id, name, seed, reports, started) {
  const layers = transformer(28);
  const index = (name) => layers.findIndex((l) => l.name === name);
  const kinds = new Map([
    [index("layers.11.mlp.down_proj"), "over"],
    [index("layers.12.mlp.down_proj"), "over"],
    [index("layers.26.attn.k_proj"), "stuck"],
    [index("layers.27.attn.k_proj"), "stuck"],
    [index("layers.3.mlp.gate_proj"), "trap"],
    [index("layers.19.attn.o_proj"), "trap"],
  ]);
  return {
    id,
    name,
    seed,
    layers,
    started,
    live: true,
    scaleOfSteps: 20000,
    every: 20,
    reports: () => reports + Math.floor((Date.now() - started) / 2000),
    step: (r) => 20 * (r + 1),
    bad: (l) => kinds.get(l),
    gap: [612, 640],
    findings: () => [
      finding(
        "trap_rows",
        "large correlation trap",
        "layers.3.mlp.gate_proj (5.2 times the random edge) and layers.19.attn.o_proj (4.9) have a large correlation trap since step 7,600: single large rows.",
        "Look at these outputs (trap_places), and lower the learning rate.",
        true,
        7600,
        [index("layers.3.mlp.gate_proj"), index("layers.19.attn.o_proj")],
      ),
      finding(
        "over_trained",
        "looks over-trained",
        "layers.11.mlp.down_proj (1.5, 95 %: 1.2 to 1.8) and layers.12.mlp.down_proj (1.6, 95 %: 1.4 to 1.8) look over-trained since step 14,800: alpha is below 2, including the interval.",
        "Healthy networks show this too: let the validation loss decide.",
        false,
        14800,
        [index("layers.11.mlp.down_proj"), index("layers.12.mlp.down_proj")],
      ),
      finding(
        "not_learning",
        "looks untrained",
        "layers.26.attn.k_proj and layers.27.attn.k_proj look untrained since step 400: random signs could give the same spectrum.",
        "This is normal early on; later, the learning rate may be too small or the layer unused.",
        false,
        400,
        [index("layers.26.attn.k_proj"), index("layers.27.attn.k_proj")],
      ),
      finding(
        "moves_most",
        "moves most",
        "layers.0.attn.q_proj moved at least 10 times more than the other layers from step 40 to step 220.",
        "Check its learning rate and its initialisation.",
        false,
        40,
        [index("layers.0.attn.q_proj")],
        { until: 220 },
      ),
    ],
    withCurves: true,
    stop: "",
  };
}

function smallRun(id, name, layers, reports, more = {}) {
  return {
    id,
    name,
    seed: 7,
    layers,
    started: 0,
    live: false,
    scaleOfSteps: reports * 100,
    every: 100,
    reports: () => reports,
    step: (r) => 100 * (r + 1),
    bad: () => undefined,
    findings: () => [],
    withCurves: false,
    stop: "",
    ...more,
  };
}

const hostile = [
  "<script>alert(1)</script>",
  "\"'><img src=x onerror=alert(1)>",
  "line\\nbreak",
  "right\\u202eto left",
  `long.${"x".repeat(5000)}`,
  "javascript:alert(1)",
  "__proto__",
  "constructor",
];
const started = Date.now();
export const RUNS = new Map(
  [
    bigRun("big", "lightning_logs/version_3", 1, 970, started),
    { ...bigRun("big2", "lightning_logs/version_2", 2, 600, started), live: false, reports: () => 600 },
    smallRun("small", "sweeps/lr=0.01", transformer(4, PARTS.slice(0, 3)), 24, {
      withCurves: true,
      stop: "plateau: the mean alpha no longer falls (2.51 at step 2,400)",
      seed: 5,
    }),
    smallRun("finished", "finished/llama-160m.safetensors", transformer(12), 1, {
      step: () => null,
      scaleOfSteps: 1,
      finished: true,
      findings: () => [
        finding(
          "under_trained",
          "looks under-trained",
          "layers.7.attn.v_proj (7, 95 %: 6.7 to 7.3) looks under-trained: alpha is above 6.",
          "More steps or a larger learning rate may help.",
          false,
          null,
          [60],
        ),
      ],
    }),
    smallRun("empty", "just started", [], 0),
    smallRun(
      "hostile",
      '<b>hostile</b> & "names"',
      hostile.map((name, i) =>
        layer(
          name,
          "<i>Linear</i>",
          "matrix",
          "64 × 64",
          i % 2 ? "<u>block</u>" : "",
          "",
          name.length > 80 ? `${name.slice(0, 76)}…` : name,
        ),
      ),
      12,
      {
        findings: () => [
          finding(
            "frozen",
            "<b>frozen</b>",
            "<script>alert(1)</script> has not changed since step 300.",
            "<img src=x onerror=alert(2)>",
            true,
            300,
            [0, 1],
          ),
        ],
      },
    ),
    smallRun("nothing", "nothing but NaN", transformer(2), 9, { gap: [-1, 99] }),
    smallRun("broken", "old/version_0", [], 0, {
      problem: "No spectra: these event files were written by an older version.",
    }),
  ].map((run) => [run.id, run]),
);

const info = (run) => {
  const reports = run.reports();
  const held = run.findings().filter((f) => f.until === null && reports);
  return {
    id: run.id,
    name: run.name,
    reports,
    step: reports ? run.step(reports - 1) : null,
    updated:
      run.live && Number.isFinite(run.started) ? run.started / 1000 + 2 * (reports - 970) : started / 1000 - 5000,
    alarms: held.filter((f) => f.alarm).length,
    notices: held.filter((f) => !f.alarm).length,
    problem: run.problem ?? "",
  };
};

function curves(run, reports) {
  if (!run.withCurves || !reports) return [];
  const last = run.step(reports - 1) + 10;
  const points = Math.min(2000, Math.ceil(last / 10));
  const steps = Array.from({ length: points }, (_, i) => Math.round(((i + 1) * last) / points));
  const t = (s) => s / run.scaleOfSteps;
  const sparse = steps.filter((_, i) => i % 40 === 39);
  return [
    {
      name: "train_loss",
      group: "loss",
      steps,
      values: steps.map((s) => 2.2 + 8 * Math.exp(-9 * t(s)) + 0.08 * normal(run.seed, s, 1) - 0.5 * t(s)),
    },
    {
      name: "val_loss",
      group: "loss",
      steps: sparse,
      values: sparse.map(
        (s) =>
          2.4 + 7.5 * Math.exp(-9 * t(s)) + 0.02 * normal(run.seed, s, 2) - 0.3 * t(s) + 0.5 * Math.max(0, t(s) - 0.7),
      ),
    },
    {
      name: "val_accuracy",
      group: "quality",
      steps: sparse,
      values: sparse.map((s) => 0.71 - 0.5 * Math.exp(-6 * t(s)) + 0.004 * normal(run.seed, s, 3)),
    },
    {
      name: "lr-AdamW",
      group: "rate",
      steps: sparse,
      values: sparse.map((s) => 3e-4 * Math.min(1, s / 1000) * (0.55 + 0.45 * Math.cos(Math.PI * Math.min(1, t(s))))),
    },
  ];
}

const cache = new Map();
function row(run, r) {
  const key = `${run.id} ${r}`;
  if (!cache.has(key))
    cache.set(
      key,
      run.layers.map((_, l) => values(run, l, r)),
    );
  return cache.get(key);
}

function summary(run, from, to) {
  const result = {
    alpha: [],
    alpha_min: [],
    alpha_max: [],
    alpha_median: [],
    num_reliable: [],
    num_traps: [],
    failed: [],
  };
  for (let r = from; r < to; r++) {
    const rows = row(run, r).filter(Boolean);
    const alphas = rows.map((v) => v.alpha).sort((a, b) => a - b);
    const sum = (key) => rows.reduce((s, v) => s + v[key], 0);
    result.alpha.push(alphas.length ? alphas.reduce((a, b) => a + b, 0) / alphas.length : null);
    result.alpha_min.push(alphas[0] ?? null);
    result.alpha_max.push(alphas[alphas.length - 1] ?? null);
    result.alpha_median.push(alphas[alphas.length >> 1] ?? null);
    result.num_reliable.push(sum("reliable"));
    result.num_traps.push(sum("num_traps"));
    result.failed.push(0);
  }
  return result;
}

function rules(run, from, to) {
  if (run.finished || !run.withCurves) return [];
  const scores = (f) =>
    Array.from({ length: to - from }, (_, i) => Math.min(1, Math.max(0, f(run.step(from + i) / run.scaleOfSteps))));
  return [
    {
      name: "plateau",
      label: "plateau",
      text: "The mean alpha falls by less than 0.02 per doubling of the steps.",
      score: scores((t) => (run.stop ? 1.1 * t : 0.62 * t)),
    },
    {
      name: "traps",
      label: "correlation traps",
      text: "Two layers have a harmful trap.",
      score: scores((t) => (t > 0.38 ? 0.25 + 0.2 * (t - 0.38) : 0)),
    },
    {
      name: "overtrained",
      label: "over-trained",
      text: "2 of 197 layers are below 2.",
      score: scores((t) => (t > 0.72 ? 0.35 : 0)),
    },
  ];
}

function runAnswer(run, from) {
  const reports = run.reports();
  const start = Math.min(Math.max(0, from), reports);
  const range = Array.from({ length: reports - start }, (_, i) => start + i);
  return {
    id: run.id,
    name: run.name,
    version: VERSION,
    from: start,
    steps: range.map(run.step),
    times: range.map((r) =>
      run.live ? run.started / 1000 + 2 * (r - 969) : started / 1000 - 5000 - 2 * (reports - r),
    ),
    summary: summary(run, start, reports),
    lag: range.map((r) => (run.live ? 20 + (r % 7) * 4 : 0)),
    skipped: run.live ? 12 : 0,
    over_budget: 0,
    every: run.finished ? null : run.every,
    layers: run.layers,
    columns: reports ? (run.finished ? COLUMNS.filter((c) => !/update|lr_/.test(c.name)) : COLUMNS) : [],
    findings: reports ? run.findings() : [],
    rules: rules(run, start, reports),
    stop: run.stop,
    curves: curves(run, reports),
    cells: "all",
    problem: run.problem ?? "",
  };
}

function columnAnswer(run, name, from) {
  const reports = run.reports();
  const n = run.layers.length;
  const numbers = new Float32Array(Math.max(0, reports - from) * n).fill(Number.NaN);
  for (let r = from; r < reports; r++)
    row(run, r).forEach((v, l) => {
      if (v) numbers[(r - from) * n + l] = v[name];
    });
  return Buffer.from(numbers.buffer);
}

const TYPES = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  txt: "text/plain; charset=utf-8",
};

async function answer(url, build) {
  const path = url.pathname;
  if (path === "/api/runs")
    return [
      "application/json",
      JSON.stringify({
        title: "runs",
        live: true,
        runs: [...RUNS.values()].map(info),
        problems: ["other/events.1: the file ends in the middle of a record; what is before it is shown."],
      }),
    ];
  if (path.startsWith("/api/")) {
    const run = RUNS.get(url.searchParams.get("id"));
    if (!run) return null;
    const from = Number(url.searchParams.get("from") ?? 0);
    if (path === "/api/run") return ["application/json", JSON.stringify(runAnswer(run, from))];
    if (path === "/api/column")
      return ["application/octet-stream", columnAnswer(run, url.searchParams.get("name"), from), VERSION];
    if (path === "/api/cell")
      return [
        "application/json",
        JSON.stringify({
          ...cellOf(run, Number(url.searchParams.get("layer")), Number(url.searchParams.get("report"))),
          version: VERSION,
        }),
      ];
    return null;
  }
  const name = path === "/" ? "index.html" : path.slice(1);
  if (!/^[a-z]+\.[a-z]+$/.test(name)) return null;
  return [TYPES[name.split(".")[1]], await readFile(join(build, name))];
}

/** The page as one file with some runs, as the Python side writes it; spectra of every 100th report. */
export async function oneFile(ids) {
  const packed = (bytes) => deflateSync(bytes).toString("base64");
  const data = { runs: { title: "runs", live: false, runs: [], problems: [] }, run: {}, columns: {}, cells: {} };
  for (const id of ids) {
    const run = RUNS.get(id);
    const reports = run.reports();
    const cells = Array.from({ length: reports }, (_, r) => r).filter((r) => r % 100 === 0 || r === reports - 1);
    data.runs.runs.push(info(run));
    data.run[id] = { ...runAnswer(run, 0), cells };
    data.columns[id] = Object.fromEntries(COLUMNS.map(({ name }) => [name, packed(columnAnswer(run, name, 0))]));
    data.cells[id] = Object.fromEntries(
      cells.map((r) => [r, packed(JSON.stringify(run.layers.map((_, l) => cellOf(run, l, r))))]),
    );
  }
  const [html, js, css] = await Promise.all(
    ["index.html", "page.js", "page.css"].map((name) => readFile(join(BUILD, name), "utf8")),
  );
  const json = JSON.stringify(data).replaceAll("</", "<\\/");
  return html
    .replace('<link rel="stylesheet" href="page.css">', () => `<style>${css}</style>`)
    .replace(
      '<script src="page.js" defer></script>',
      () => `<script>${js}</script>\n<script type="application/json" id="ww-data">${json}</script>`,
    );
}

export function start(port = 0, build = BUILD) {
  const server = createServer(async (request, response) => {
    let found = null;
    try {
      found = await answer(new URL(request.url, "http://localhost"), build);
    } catch (error) {
      console.error(error);
    }
    if (!found) return response.writeHead(404, { "content-type": "text/plain" }).end("There is no such run or file.");
    response
      .writeHead(200, {
        "content-type": found[0],
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        ...(found[2] && { "x-run-version": found[2] }),
      })
      .end(found[1]);
  });
  return new Promise((ready) => server.listen(port, "127.0.0.1", () => ready(server)));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = await start(Number(process.argv[2] ?? 0));
  for (const run of RUNS.values()) runAnswer(run, 0);
  console.log(`http://127.0.0.1:${server.address().port}/`);
}
