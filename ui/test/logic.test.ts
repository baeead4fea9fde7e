import assert from "node:assert/strict";
import { test } from "node:test";
import type { Cell, Column, Curve, Finding, Layer, Run } from "../src/data/contract";
import { at, extended, type Grid, merged } from "../src/data/merge";
import { float32, InlineSource } from "../src/data/source";
import {
  ALPHA_STOPS,
  between,
  colorScale,
  type Rgb,
  placeOf,
  usualRange,
  WORD_COLORS,
  parseColor,
} from "../src/logic/colors";
import { differences } from "../src/logic/compare";
import { ago, columnValue, number, place, powerOfTen, withInterval } from "../src/logic/format";
import { grouped, rowsOf, rowOf, shortName } from "../src/logic/groups";
import { formatHash, parseHash } from "../src/logic/hash";
import { fittingHeight, layoutRows } from "../src/logic/layout";
import { type Mark, MarkFinder } from "../src/logic/marks";
import { CellColors, paint } from "../src/logic/paint";
import { rateInWords } from "../src/logic/rate";
import { linePoints } from "../src/logic/sparkline";
import { cumulative, fitted, shapesOf, stairs } from "../src/logic/spectrum";
import { ascending, lastAtMost, nearest, reportAt, spans, steadyRange } from "../src/logic/steps";
import { decades, exponentTicks } from "../src/logic/ticks";
import { badness, worstOf, worstOrder } from "../src/logic/worst";

const layer = (name: string, block = "", note = ""): Layer => ({
  name,
  shown: name,
  kind: "Linear",
  role: "matrix",
  shape: "4 × 4",
  block,
  note,
});
const column = (changes: Partial<Column> = {}): Column => ({
  name: "alpha",
  label: "alpha",
  text: "",
  kind: "number",
  words: [],
  scale: "alpha",
  centre: null,
  ...changes,
});
const run = (changes: Partial<Run>): Run => ({
  id: "a",
  name: "a",
  version: "1",
  from: 0,
  steps: [],
  times: [],
  summary: {},
  lag: [],
  skipped: 0,
  over_budget: 0,
  every: null,
  layers: [],
  columns: [],
  findings: [],
  rules: [],
  stop: "",
  curves: [],
  cells: "all",
  problem: "",
  ...changes,
});
const rule = (score: (number | null)[], name = "plateau") => ({ name, label: name, text: "", score });
const WHITE: Rgb = [255, 255, 255];

test("a run is put together from parts, and a new version replaces it", () => {
  const first = run({
    steps: [0, 10],
    times: [1, 2],
    lag: [0, 0],
    summary: { alpha: [5, 4] },
    rules: [rule([0, 0.1])],
  });
  const more = run({
    from: 2,
    steps: [20],
    times: [3],
    lag: [1],
    summary: { alpha: [3], traps: [1] },
    rules: [rule([0.5]), rule([1], "traps")],
  });
  const both = merged(first, more);
  assert.deepEqual(both.steps, [0, 10, 20]);
  assert.deepEqual(both.summary, { alpha: [5, 4, 3], traps: [null, null, 1] });
  assert.deepEqual(
    both.rules.map(({ score }) => score),
    [
      [0, 0.1, 0.5],
      [null, null, 1],
    ],
  );
  const nothingNew = merged(both, run({ from: 3 }));
  assert.deepEqual(
    nothingNew.rules.map(({ score }) => score),
    [
      [0, 0.1, 0.5],
      [null, null, 1],
    ],
  );
  assert.deepEqual(merged(both, run({ version: "2", steps: [0], times: [9] })).steps, [0]);
});

test("rows of a grid that are sent twice are there once", () => {
  let grid = extended(null, 0, Float32Array.of(1, 2, 3, 4), 2);
  grid = extended(grid, 1, Float32Array.of(5, 6, 7, 8), 2);
  assert.equal(grid.rows, 3);
  assert.deepEqual([at(grid, 0, 1), at(grid, 1, 0), at(grid, 2, 1)], [2, 5, 8]);
  assert.ok(Number.isNaN(at(grid, 3, 0)) && Number.isNaN(at(grid, 0, 2)) && Number.isNaN(at(null, 0, 0)));
});

test("a column may end within a number", () => {
  assert.deepEqual([...float32(new Uint8Array([0, 0, 128, 63, 1]).buffer)], [1]);
});

test("cells touch where reports are regular, and a gap stays a gap", () => {
  const { left, right } = spans([0, 10, 20, 60, 70, 80]);
  assert.deepEqual([...left], [-5, 5, 15, 55, 65, 75]);
  assert.deepEqual([...right], [5, 15, 25, 65, 75, 85]);
  assert.equal(reportAt({ left, right }, 40), -1);
  assert.equal(reportAt({ left, right }, 16), 2);
  assert.equal(reportAt({ left, right }, 999), -1);
  assert.deepEqual([...spans([7]).left, ...spans([7]).right], [6.5, 7.5]);
  assert.equal(spans([]).left.length, 0);
});

test("the nearest step", () => {
  assert.deepEqual(
    [-5, 4, 6, 99].map((x) => nearest([0, 10, 20], x)),
    [0, 0, 1, 2],
  );
  assert.equal(nearest([], 1), -1);
  assert.deepEqual(
    [-1, 0, 10, 15, 30].map((x) => lastAtMost([0, 10, 20], x)),
    [-1, 0, 1, 1, 2],
  );
});

test("layers are grouped by block, found by words, and those without a matrix take no row", () => {
  const layers = [
    layer("layers.0.q", "layers.0"),
    layer("layers.0.norm", "layers.0", "no matrix"),
    layer("layers.0.k", "layers.0"),
    layer("layers.1.q", "layers.1"),
    layer("head"),
  ];
  const blocks = grouped(layers, "block");
  assert.deepEqual(
    blocks.map(({ name, layers: indices }) => [name, indices]),
    [
      ["layers.0", [0, 2]],
      ["layers.1", [3]],
      ["other layers", [4]],
    ],
  );
  assert.deepEqual(
    grouped(layers, "kind").map(({ name }) => name),
    ["head", "layers.*.k", "layers.*.q"],
  );
  assert.deepEqual(
    grouped(layers, "block", "Q 1").map(({ layers: indices }) => indices),
    [[3]],
  );
  const rows = rowsOf(blocks, new Set(["layers.0", "layers.1"]));
  assert.deepEqual(
    rows.map(({ layers: indices, closed }) => [indices, closed]),
    [
      [[0, 2], true],
      [[3], false],
      [[4], false],
    ],
  );
  assert.deepEqual([rowOf(rows, 2), rowOf(rows, 1)], [0, -1]);
  assert.deepEqual([shortName(layers[0] as Layer), shortName(layers[4] as Layer)], ["q", "head"]);
});

test("worst first: findings, then alpha below 2, then the largest, unsure ones last", () => {
  const values = [3, 9, 1.5, Number.NaN, 12, 4];
  const finding = { layers: [5], until: null } as unknown as Finding;
  const over = { layers: [0], until: 10 } as unknown as Finding;
  const order = worstOrder(
    [finding, over],
    column(),
    [0, 1, 2, 3, 4, 5],
    (i) => values[i] as number,
    (i) => i !== 4,
  );
  assert.deepEqual(order, [5, 2, 1, 0, 3, 4]);
});

test("badness", () => {
  assert.ok(badness(column(), 1.5) > badness(column(), 10));
  assert.equal(badness(column({ scale: "linear" }), Number.NaN), Number.NEGATIVE_INFINITY);
  const ratio = column({ scale: "diverging", centre: 1 });
  assert.ok(badness(ratio, 0.25) > badness(ratio, 2));
  assert.equal(
    worstOf(column({ scale: "linear" }), [3, 4], (i) => (i === 4 ? Number.NaN : 1)),
    3,
  );
});

const grid = (layers: number, ...values: number[]): Grid => ({
  rows: values.length / layers,
  layers,
  values: Float32Array.from(values),
  base: {},
});

test("marks stand where a tail formed and where there were more traps than ever", () => {
  const reports = (marks: readonly Mark[]) => marks.map((mark) => mark.report);
  const tails = (...values: number[]) => reports(new MarkFinder().find(grid(1, ...values), undefined));
  const traps = (...values: number[]) => reports(new MarkFinder().find(undefined, grid(1, ...values)));
  assert.deepEqual(tails(1, 1, 1), []);
  assert.deepEqual(tails(0, 0, 1, 0, 1, 0, 0, 0, 1), [2, 8]);
  assert.deepEqual(tails(0, Number.NaN, 1), [2]);
  assert.deepEqual(traps(2, 2, 3, 1, 3, 4), [2, 5]);
  assert.deepEqual(traps(Number.NaN, 1, 2), [2]);
});

test("marks are the same if the reports come one by one, and start anew with another column", () => {
  const values = Float32Array.from({ length: 60 }, (_, i) => ((i * i) % 7) & 1);
  const whole = new MarkFinder().find(extended(null, 0, values, 2), undefined);
  const finder = new MarkFinder();
  let grown: Grid | null = null;
  for (let report = 0; report < 30; report++) {
    grown = extended(grown, report, values.slice(2 * report, 2 * report + 2), 2);
    finder.find(grown, undefined);
  }
  const key = (marks: readonly Mark[]) => marks.map(({ layer, report }) => `${report} ${layer}`);
  assert.deepEqual(key(finder.find(grown as Grid, undefined)), key(whole));
  assert.ok(whole.length > 0);
  assert.deepEqual(finder.find(grid(1, 1, 1), undefined), []);
});

/** Machado, Oliveira and Fernandes (2009), severity 1, on linear light. */
const BLINDNESS = {
  protan: [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
  deutan: [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881],
  tritan: [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039],
};

function lab(color: Rgb, matrix: number[] | null): number[] {
  let rgb = color.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const times = (m: number[], v: number[]) =>
    [0, 1, 2].map((i) =>
      Math.min(
        1,
        Math.max(
          0,
          [0, 1, 2].reduce((s, j) => s + (m[3 * i + j] as number) * (v[j] as number), 0),
        ),
      ),
    );
  if (matrix) rgb = times(matrix, rgb);
  const xyz = times(
    [0.4124, 0.3576, 0.1805, 0.2126, 0.7152, 0.0722, 0.0193, 0.1192, 0.9505].map(
      (v, i) => v / ([0.9505, 1, 1.089][Math.floor(i / 3)] as number),
    ),
    rgb,
  );
  const f = xyz.map((v) => (v > 0.008856 ? Math.cbrt(v) : 7.787 * v + 16 / 116)) as [number, number, number];
  return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])];
}

test("the bands of alpha differ for people with any colour-blindness", () => {
  for (const matrix of [null, ...Object.values(BLINDNESS)]) {
    const bands = [1.5, 2.2, 4, 5.8, 7, 11].map((alpha) => lab(between(ALPHA_STOPS, alpha), matrix));
    for (const [i, a] of bands.entries()) {
      for (const [j, b] of bands.slice(i + 1).entries()) {
        const distance = Math.hypot(...a.map((v, k) => v - (b[k] as number)));
        assert.ok(distance > 15, `bands ${i} and ${i + 1 + j}: ${distance}`);
      }
    }
  }
});

test("colours of all kinds of columns", () => {
  const alpha = colorScale(column(), null, WHITE);
  assert.equal(placeOf(alpha, Number.NaN), -1);
  assert.equal(placeOf(alpha, -3), 0);
  assert.equal(placeOf(alpha, 99), 511);
  assert.notEqual(alpha.colors[placeOf(alpha, 1.9)], alpha.colors[placeOf(alpha, 2.1)]);
  const words = colorScale(column({ kind: "words", words: ["", "random", "arranged"] }), null, WHITE);
  for (const code of [0, 1, 2]) {
    assert.equal((words.colors[placeOf(words, code)] ?? 0) & 255, parseColor(WORD_COLORS[code] as string)[0]);
  }
  const log = colorScale(column({ scale: "log" }), [0.01, 1], WHITE);
  assert.ok(placeOf(log, 0.1) > 250 && placeOf(log, 0.1) < 260);
  assert.equal(placeOf(log, 0), 0);
  const ratio = colorScale(column({ scale: "diverging", centre: 1 }), [0.5, 4], WHITE);
  assert.ok(placeOf(ratio, 1) >= 255 && placeOf(ratio, 1) <= 256);
  assert.equal(placeOf(colorScale(column({ scale: "linear" }), [3, 3], WHITE), 3), 256);
});

test("the usual range leaves out extremes, and columns without values have none", () => {
  const values = Float32Array.from({ length: 20000 }, (_, i) => (i === 77 ? 1e9 : i % 100));
  const range = usualRange(grid(200, ...values));
  assert.ok(range && range[0] >= 0 && range[1] <= 100);
  assert.equal(usualRange(grid(1, Number.NaN)), null);
});

const painting = (cells: CellColors, reports: number[], lines: number[]) => ({
  width: reports.length,
  height: lines.length,
  from: 0,
  reports: Int32Array.from(reports),
  lines: Int32Array.from(lines),
  cells,
  none: [11, 22] as const,
  background: 33,
});

test("painting: colours, pale cells, hatching and gaps", () => {
  const scale = colorScale(column(), null, WHITE);
  const target = new Uint32Array(8 * 4);
  const cells = new CellColors();
  cells.update({
    rows: [0],
    layerOf: () => 0,
    grid: grid(1, 3, 3, Number.NaN),
    reliable: grid(1, 1, 0, 0),
    scale,
  });
  paint(painting(cells, [0, 0, 1, 1, 2, 2, -1, -1], [0, 0, 0, -1]), target);
  const color = scale.colors[placeOf(scale, 3)] as number;
  const pale = scale.pale[placeOf(scale, 3)] as number;
  assert.deepEqual([...target.slice(0, 8)], [color, color, pale, pale, 22, 11, 33, 33]);
  assert.deepEqual([...target.slice(16, 24)], [color, color, pale, pale, 11, 11, 33, 33]);
  assert.deepEqual([...target.slice(24)], new Array(8).fill(33));
  assert.equal([...target.slice(0, 24)].filter((c) => c === 22).length, 1);
});

test("one more report is painted as if all were painted at once", () => {
  const scale = colorScale(column(), null, WHITE);
  const [rows, layerOf] = [[0, 1], (row: number) => row];
  const [lines, reports] = [
    [0, 1, 1, -1],
    [0, 1, 2, 2, 3, -1],
  ];
  const values = Float32Array.of(3, 4, Number.NaN, 5, 2, 7, Number.NaN, 1);
  const flags = Float32Array.of(1, 0, 1, 0, 1, 1, 0, 1);
  const all = new CellColors();
  const whole = new Uint32Array(24);
  all.update({ rows, layerOf, grid: extended(null, 0, values, 2), reliable: extended(null, 0, flags, 2), scale });
  paint(painting(all, reports, lines), whole);

  const cells = new CellColors();
  const target = new Uint32Array(24);
  const first = extended(null, 0, values.slice(0, 4), 2);
  const reliable = extended(null, 0, flags.slice(0, 4), 2);
  assert.equal(cells.update({ rows, layerOf, grid: first, reliable, scale }), 0);
  paint(painting(cells, reports, lines), target);
  const more = extended(first, 2, values.slice(4), 2);
  // Whether the new cells are reliable is known a moment later.
  assert.equal(cells.update({ rows, layerOf, grid: more, reliable, scale }), 2);
  const known = extended(reliable, 2, flags.slice(4), 2);
  assert.equal(cells.update({ rows, layerOf, grid: more, reliable: known, scale }), 2);
  paint({ ...painting(cells, reports, lines), from: 2 }, target);
  assert.deepEqual(target, whole);
  assert.equal(cells.update({ rows, layerOf, grid: more, reliable: known, scale }), 4);
  assert.equal(cells.update({ rows: [1], layerOf: () => 1, grid: more, reliable: known, scale }), 0);
});

test("the axis stays for some reports, with little room at its end", () => {
  const ends = Array.from({ length: 100 }, (_, i) => steadyRange(0, 1000 + i)[1]);
  assert.ok(ends.every((end, i) => end >= 1000 + i && end <= 1.02 * (1000 + i)));
  assert.ok(new Set(ends).size < 10);
  assert.deepEqual(steadyRange(5, 5), [5, 5]);
});

test("what came of the learning rate is said from its last jump, from its peak, or from the start", () => {
  const steps = Array.from({ length: 41 }, (_, i) => 10 * i);
  const curve = (name: string, group: Curve["group"], value: (step: number) => number): Curve => ({
    name,
    group,
    steps,
    values: steps.map(value),
  });
  const alpha = steps.map((step) => (step < 200 ? 4 : 3));
  const loss = curve("loss", "loss", (step) => (step < 200 ? 2 : 1));
  const words = (rate: (step: number) => number) => rateInWords([loss, curve("lr", "rate", rate)], steps, alpha);
  const since = "Since step 190: loss 2 → 1, mean alpha 4 → 3.";
  assert.equal(
    words((s) => (s < 200 ? 0.1 : 0.01)),
    `lr was 0.1 at step 190, 0.01 at step 200. ${since}`,
  );
  assert.match(
    words((s) => (s < 100 ? s / 500 : 0.2 - (s - 100) / 1500)),
    /^lr was 0.2 at step 100, 0.193 at step 110, and is 0 now. Since step 100: loss 2 → 1/,
  );
  assert.equal(
    words(() => 0.1),
    "lr is 0.1 throughout. Since step 0: loss 2 → 1, mean alpha 4 → 3.",
  );
  assert.equal(rateInWords([loss], steps, alpha), "");
});

test("a small line leaves out missing values, and keeps the last one", () => {
  assert.equal(linePoints([0, 5, 10], [0, null, 0.5], 9), "0.0000,1.0000 1.0000,0.5000");
  const many = linePoints(
    Array.from({ length: 1001 }, (_, i) => i),
    Array.from({ length: 1001 }, () => 1),
    100,
  ).split(" ");
  assert.ok(many.length <= 100);
  assert.equal(many.at(-1), "1.0000,0.0000");
});

test("a fitted law has the counts of the tail", () => {
  const points = fitted(100, 3, 0, 2, 0.1, "tail");
  assert.deepEqual(points[0], [0, 100]);
  assert.ok(Math.abs((points[points.length - 1] as readonly [number, number])[1] - 100 * 10 ** -4) < 1e-9);
  const perBin = Array.from(
    { length: 200 },
    (_, i) => (fitted(100, 3, 0.1 * i, 0.1 * i + 1, 0.1, "counts")[0]?.[1] ?? Number.NaN) * 10 ** (-2 * 0.1 * i),
  );
  assert.ok(Math.abs(perBin.reduce((a, b) => a + b) - 100) < 1e-6);
  assert.deepEqual(fitted(Number.NaN, 3, 0, 1, 0.1, "tail"), []);
  assert.deepEqual(fitted(10, 3, 1, 1, 0.1, "tail"), []);
});

test("outlines of histograms", () => {
  assert.deepEqual(stairs([2, 0], 0, 1), [
    [0, 0],
    [0, 2],
    [1, 2],
    [1, 0],
    [2, 0],
    [2, 0],
  ]);
  assert.deepEqual(cumulative([3, 0, 1], 0, 1), [
    [0, 4],
    [2, 1],
  ]);
  assert.deepEqual(stairs([], 0, 1), []);
});

test("shapes of a spectrum: coloured above the edge, markers in view, nothing without a histogram", () => {
  const cell: Cell = {
    step: 1,
    words: "",
    trap_places: null,
    histogram: { low: -1, high: 1, counts: [5, 3, 2, 1], rand_counts: null },
    values: { bulk_max: 1, lambda_max: 10, xmin: 1, num_pl_spikes: 3, alpha: 3, alpha_low: null, max_rand_eval: 0 },
  };
  const shapes = shapesOf(cell, null, "counts");
  assert.deepEqual(
    shapes?.bars.map(({ above }) => above),
    [false, false, true, true],
  );
  assert.deepEqual(
    shapes?.markers.map(({ kind }) => kind),
    ["edge", "xmin", "max"],
  );
  assert.equal(shapes?.band, null);
  assert.ok(shapes && shapes.x[0] < -1 && shapes.x[1] > 1);
  assert.equal(shapesOf({ ...cell, histogram: null }, null, "counts"), null);
});

test("differences match layers by name", () => {
  const found = differences(
    [layer("a"), layer("b"), layer("c")],
    (i) => [1, 2, Number.NaN][i] as number,
    [layer("b"), layer("a"), layer("z")],
    (i) => [5, 1.5, 0][i] as number,
  );
  assert.deepEqual(
    found.map(({ layer: i, difference }) => [i, difference]),
    [
      [1, -3],
      [0, -0.5],
    ],
  );
});

test("numbers as people read them", () => {
  assert.deepEqual(
    [0, 2.34567, -0.5, 1234567, 0.00001, 12345, Number.NaN, null].map((v) => number(v)),
    ["0", "2.35", "−0.5", "1.23e6", "1e−5", "12,345", "–", "–"],
  );
  assert.equal(withInterval(3.4, 3.2, Number.NaN), "3.4");
  assert.deepEqual([ago(3), ago(300), ago(7200), ago(1e6)], ["3 s ago", "5 min ago", "2 h ago", "12 days ago"]);
  assert.equal(powerOfTen(-12), "10⁻¹²");
  assert.equal(columnValue(column({ kind: "words", words: ["a"] }), 7), "–");
  assert.equal(columnValue(column({ kind: "flag" }), 0), "no");
  assert.equal(place([3], 4.25, "rows"), "row 3 (4.25 times the median)");
});

test("ticks", () => {
  assert.deepEqual(exponentTicks(-2.5, 1.2), [-2, -1, 0, 1]);
  assert.deepEqual(exponentTicks(0.1, 0.7), [0.5]);
  assert.equal(exponentTicks(-40, 40).length, 9);
  assert.deepEqual(decades(0.5, 200), [1, 10, 100]);
});

test("a link holds any name", () => {
  const link = { run: "a&b=#", column: "alpha", layer: 'x\n\u202e"<script>', step: 1200 };
  assert.deepEqual(parseHash(formatHash(link)), link);
  assert.deepEqual(parseHash("#step=x"), { run: null, column: null, layer: null, step: null });
});

test("a file's own data: columns and cells are inflated, and what is not there is said", async () => {
  const deflated = async (bytes: Uint8Array) => {
    const packed = new Blob([bytes as Uint8Array<ArrayBuffer>]).stream().pipeThrough(new CompressionStream("deflate"));
    return btoa(String.fromCharCode(...new Uint8Array(await new Response(packed).arrayBuffer())));
  };
  const cell: Omit<Cell, "version"> = { step: 5, values: {}, words: "fine", histogram: null, trap_places: null };
  const source = new InlineSource(
    JSON.stringify({
      runs: { title: "", live: false, runs: [], problems: [] },
      run: { a: run({ layers: [layer("x"), layer("y")] }) },
      columns: { a: { alpha: await deflated(new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer)) } },
      cells: { a: { 1: await deflated(new TextEncoder().encode(JSON.stringify([cell, null]))) } },
    }),
  );
  assert.deepEqual([...(await source.column("a", "alpha", 1)).values], [3, 4]);
  assert.deepEqual(await source.cell("a", 0, 1), { ...cell, version: "1" });
  await assert.rejects(source.cell("a", 1, 1), /no spectrum of this layer/);
  await assert.rejects(source.cell("a", 0, 0), /no spectra of this step/);
  await assert.rejects(source.column("a", "__proto__", 0), /does not hold the column/);
  await assert.rejects(source.run("constructor"), /does not hold that run/);
});

test("a curve that goes back after a restart grows again", () => {
  const curve = { steps: [1, 2, 3, 2, 4], values: [1, 2, 3, 9, 4] };
  assert.deepEqual(ascending(curve), { steps: [1, 2, 3, 4], values: [1, 9, 3, 4] });
  const fine = { steps: [1, 2], values: [1, null] };
  assert.equal(ascending(fine), fine);
});

test("rows of a group are together high enough for its name, and all rows fit if they can", () => {
  const groups = grouped([layer("a.0", "a"), layer("a.1", "a"), layer("b.0", "b")], "block");
  const rows = rowsOf(groups, new Set());
  const layout = layoutRows(groups, rows, 2);
  assert.deepEqual(layout.heights, [7, 7, 13]);
  assert.deepEqual(layout.tops, [0, 7, 16]);
  assert.equal(layout.total, 29);
  assert.equal(fittingHeight(groups, rows, 1000), 18);
  assert.equal(fittingHeight(groups, rows, 45), 14);
  assert.equal(fittingHeight(groups, rows, 1), 2);
  assert.equal(layoutRows([], [], 2).total, 0);
});
