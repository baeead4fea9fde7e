import assert from "node:assert/strict";
import { test } from "node:test";
import { askCell } from "../src/data/cells";
import type { Cell, Column, Layer, Rows, Run, Runs, Source } from "../src/data/contract";
import { HeldRun } from "../src/data/held";
import { at } from "../src/data/merge";
import { SourceError } from "../src/data/source";

const LAYERS: Layer[] = ["a", "b"].map((name) => ({
  name,
  shown: name,
  kind: "",
  role: "",
  shape: "",
  block: "",
  note: "",
}));
const COLUMNS: Column[] = ["alpha", "broken"].map((name) => ({
  name,
  label: name,
  text: "",
  kind: "number",
  words: [],
  scale: "alpha",
  centre: null,
}));

/** A run that grows when told so; the value of a layer is 10 times the report, plus the layer. */
class Growing implements Source {
  reports = 2;
  version = "1";
  /** Of the columns, if it is another one: the run was started again after the page asked for it. */
  rowsVersion = "";
  reachable = true;
  readonly asked: string[] = [];

  async runs(): Promise<Runs> {
    return { title: "", live: true, runs: [], problems: [] };
  }

  async run(id: string, from: number): Promise<Run> {
    this.check(`run ${from}`);
    const steps = Array.from({ length: Math.max(0, this.reports - from) }, (_, i) => from + i);
    return {
      id,
      name: id,
      version: this.version,
      from: Math.min(from, this.reports),
      steps,
      times: steps,
      summary: {},
      lag: steps,
      skipped: 0,
      over_budget: 0,
      every: 1,
      layers: LAYERS,
      columns: COLUMNS,
      findings: [],
      rules: [],
      stop: "",
      curves: [],
      cells: "all",
      problem: "",
    };
  }

  async column(_id: string, name: string, from: number): Promise<Rows> {
    this.check(`${name} ${from}`);
    if (name === "broken") throw new SourceError("This column cannot be read.", 404);
    const values = Float32Array.from({ length: 2 * (this.reports - from) }, (_, i) => 10 * (from + (i >> 1)) + (i & 1));
    return { version: this.rowsVersion || this.version, values };
  }

  async cell(): Promise<Cell> {
    this.check("cell");
    return { version: this.version, step: 0, values: {}, words: "", histogram: null, trap_places: null };
  }

  private check(what: string): void {
    this.asked.push(what);
    if (!this.reachable) throw new SourceError("The server cannot be reached.", 0);
  }
}

test("only new reports and rows are asked for", async () => {
  const source = new Growing();
  const held = new HeldRun(source, "x", () => undefined);
  held.follow(["alpha"]);
  await held.refresh();
  source.reports = 4;
  await held.refresh();
  assert.deepEqual(source.asked, ["run 0", "alpha 0", "run 2", "alpha 2"]);
  assert.deepEqual(held.run?.steps, [0, 1, 2, 3]);
  assert.equal(at(held.grids.get("alpha"), 3, 1), 31);
  await held.refresh();
  assert.deepEqual(source.asked.slice(4), ["run 4"]);
});

test("another version replaces everything, also if it is shorter", async () => {
  const source = new Growing();
  source.reports = 5;
  const held = new HeldRun(source, "x", () => undefined);
  held.follow(["alpha"]);
  await held.refresh();
  source.version = "2";
  source.reports = 1;
  await held.refresh();
  assert.deepEqual(held.run?.steps, [0]);
  assert.equal(held.grids.get("alpha")?.rows, 1);
});

test("rows of a run that was started again meanwhile are not mixed with those that are there", async () => {
  const source = new Growing();
  const held = new HeldRun(source, "x", () => undefined);
  held.follow(["alpha"]);
  await held.refresh();
  source.reports = 3;
  source.rowsVersion = "2";
  await held.refresh();
  assert.equal(held.grids.get("alpha")?.rows, 2);
  source.version = "2";
  await held.refresh();
  assert.equal(held.grids.get("alpha")?.rows, 3);
  assert.equal(source.asked.at(-1), "alpha 0");
});

test("a spectrum of another version is not shown, and asked for again", async () => {
  const source = new Growing();
  const place = { run: "x", version: "1", layer: 0, report: 0 };
  source.version = "2";
  await assert.rejects(askCell(source, place), /was started again/);
  source.version = "1";
  assert.equal((await askCell(source, place)).version, "1");
  await askCell(source, place);
  assert.deepEqual(source.asked, ["cell", "cell"]);
});

test("a column that cannot be read says why, and the others come", async () => {
  const held = new HeldRun(new Growing(), "x", () => undefined);
  held.follow(["broken", "alpha"]);
  await held.refresh();
  assert.equal(held.errors.get("broken"), "This column cannot be read.");
  assert.equal(held.grids.get("alpha")?.rows, 2);
});

test("after the server was away, the page goes on where it was", async () => {
  const source = new Growing();
  const held = new HeldRun(source, "x", () => undefined);
  held.follow(["alpha"]);
  await held.refresh();
  source.reachable = false;
  await assert.rejects(held.refresh(), /cannot be reached/);
  source.reachable = true;
  source.reports = 3;
  await held.refresh();
  assert.equal(at(held.grids.get("alpha"), 2, 0), 20);
});
