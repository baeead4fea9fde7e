import assert from "node:assert/strict";
import { test } from "node:test";
import type { Layer } from "../src/data/contract";
import { type Change, changesOf, sortedChanges } from "../src/logic/changes";
import { flowOf, onOneAxis } from "../src/logic/flow";
import { isNumeric, sortedRows, withoutEmpty } from "../src/logic/sheet";

const layer = (name: string, changes: Partial<Layer> = {}): Layer => ({
  name,
  shown: name,
  kind: "Linear",
  role: "matrix",
  shape: "4 × 4",
  block: "",
  note: "",
  ...changes,
});
const side = (name: string, layers: Layer[], values: number[]) => ({
  name,
  layers,
  read: (index: number) => values[index] ?? Number.NaN,
});
const names = (changes: readonly Change[]) => changes.map(({ name }) => name).join(" ");

const NAN = Number.NaN;
const base = side(
  "base",
  [layer("a"), layer("b"), layer("norm", { note: "no matrix", shape: "" }), layer("gone"), layer("c"), layer("d")],
  [2, 3, NAN, 4, 5, 6],
);
const tuned = side(
  "tuned",
  [
    layer("new"),
    layer("d", { note: "non-finite weights" }),
    layer("c", { shape: "4 × 2" }),
    layer("b"),
    layer("a"),
    layer("norm", { note: "no matrix", shape: "" }),
    layer("small", { note: "too few eigenvalues" }),
  ],
  [7, NAN, 5.5, 1, 2.25, NAN, NAN],
);

test("layers of two models are matched by name, and what one lacks is said", () => {
  const changes = changesOf(tuned, base, new Map([[3, "alpha fell"]]));
  assert.equal(names(changes), "new d c b a small gone");
  const found = new Map(changes.map((each) => [each.name, each]));
  assert.deepEqual(found.get("b"), {
    name: "b",
    shown: "b",
    here: 3,
    there: 1,
    after: 1,
    before: 3,
    difference: -2,
    shape: "4 × 4",
    words: "alpha fell",
  });
  assert.equal(found.get("new")?.words, "not in base");
  assert.equal(found.get("gone")?.words, "not in tuned");
  assert.equal(found.get("d")?.words, "not analysed in tuned: non-finite weights");
  assert.equal(found.get("small")?.words, "not analysed in tuned: too few eigenvalues");
  assert.equal(found.get("c")?.shape, "4 × 4 → 4 × 2");
  assert.deepEqual([found.get("gone")?.here, found.get("new")?.there], [-1, -1]);
});

test("changes are sorted by their size, and those without a value come last", () => {
  const changes = changesOf(tuned, base, new Map([[3, "alpha fell"]]));
  assert.equal(names(sortedChanges(changes, "difference", false)), "b c a new d small gone");
  assert.equal(names(sortedChanges(changes, "before", true)), "a b gone c d new small");
  assert.equal(names(sortedChanges(changes, "shown", true)), "a b c d gone new small");
  assert.equal(sortedChanges(changes, "words", true)[0]?.name, "b");
  assert.deepEqual(changesOf(side("one", [], []), side("two", [], []), new Map()), []);
});

test("a table of texts is sorted as numbers or as words, and columns without a value are left out", () => {
  const sheet = [
    ["model", "alpha", "update", "note"],
    ["net10", "2.5", "-", "x"],
    ["net2", "-", "-", "a"],
    ["net1", "1.00e+05", "-", "b"],
    ["net3", "-1", "-", "-"],
  ];
  const [head, ...rows] = withoutEmpty(sheet);
  assert.deepEqual(head, ["model", "alpha", "note"]);
  assert.deepEqual([isNumeric(rows, 0), isNumeric(rows, 1)], [false, true]);
  assert.deepEqual(sortedRows(rows, 0, true), [2, 1, 3, 0]);
  assert.deepEqual(sortedRows(rows, 1, false), [2, 0, 3, 1]);
  assert.deepEqual(sortedRows(rows, 1, true), [3, 0, 2, 1]);
  assert.deepEqual(sortedRows(rows, 2, true), [1, 2, 0, 3]);
  assert.deepEqual(withoutEmpty([["model"]]), [[]]);
});

test("alpha of models of different depth is drawn on one axis", () => {
  const long = flowOf([layer("a"), layer("n"), layer("b"), layer("c")], Float32Array.of(2, NAN, 3, 4));
  assert.deepEqual(long, { layers: [0, 2, 3], depth: [0, 0.5, 1], alpha: [2, 3, 4] });
  const one = flowOf([layer("x", { role: "adapter" }), layer("y")], Float32Array.of(9, 5));
  assert.deepEqual(one, { layers: [1], depth: [0], alpha: [5] });
  assert.deepEqual(onOneAxis([long, one]), [
    [0, 0.5, 1],
    [2, 3, 4],
    [5, null, null],
  ]);
  assert.deepEqual(onOneAxis([flowOf([], new Float32Array(0))]), [[], []]);
});
