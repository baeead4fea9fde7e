/** What the page gets, from a server or from its own file. The Python side states the same in `ww_callbacks/page`. */

export interface RunInfo {
  id: string;
  name: string;
  /** null: not read yet. */
  reports: number | null;
  step: number | null;
  updated: number;
  alarms: number;
  notices: number;
  problem: string;
}

/** Models side by side: the runs, in this order, are the models. Tables have their head first. */
export interface Comparison {
  /** Id of the run that the others are compared with. */
  base: string;
  models: string[][];
  correlations: string[][];
  conclusions: string[];
  changes: ModelChanges[];
  /** Whether the weights were compared too, not only the spectra. */
  by_weights: boolean;
}

export interface ModelChanges {
  run: string;
  text: string;
  /** Index of a layer and what changed notably, the most serious first. */
  layers: [number, string][];
}

export interface Runs {
  title: string;
  live: boolean;
  runs: RunInfo[];
  problems: string[];
  comparison?: Comparison;
}

export type Scale = "alpha" | "log" | "linear" | "diverging" | "none";

export interface Column {
  name: string;
  label: string;
  text: string;
  kind: "number" | "count" | "flag" | "words";
  words: string[];
  scale: Scale;
  centre: number | null;
}

export interface Layer {
  name: string;
  shown: string;
  kind: string;
  role: string;
  shape: string;
  block: string;
  /** Why the layer is not analysed; empty if it is. */
  note: string;
}

export interface Finding {
  kind: string;
  title: string;
  text: string;
  action: string;
  alarm: boolean;
  confidence: string;
  since: number | null;
  step: number | null;
  until: number | null;
  layers: number[];
}

export type Numbers = (number | null)[];

export interface Rule {
  name: string;
  label: string;
  text: string;
  score: Numbers;
}

export type CurveGroup = "loss" | "quality" | "rate" | "other";

export interface Curve {
  name: string;
  group: CurveGroup;
  steps: number[];
  values: Numbers;
}

export interface Run {
  id: string;
  name: string;
  version: string;
  from: number;
  steps: (number | null)[];
  times: number[];
  summary: Record<string, Numbers>;
  lag: number[];
  skipped: number;
  over_budget: number;
  every: number | null;
  layers: Layer[];
  columns: Column[];
  findings: Finding[];
  rules: Rule[];
  stop: string;
  curves: Curve[];
  cells: "all" | number[];
  problem: string;
}

export interface Histogram {
  low: number;
  high: number;
  counts: number[];
  rand_counts: number[] | null;
}

export type Value = number | string | boolean | null;

export interface Cell {
  /** Of the run that the cell belongs to. */
  version: string;
  step: number | null;
  values: Record<string, Value>;
  words: string;
  histogram: Histogram | null;
  trap_places: [number[], number][] | null;
}

/** Some rows of a column, and the version of the run that they belong to. */
export interface Rows {
  version: string;
  values: Float32Array;
}

/** Where the page reads from. Every promise can fail with an Error whose message is one sentence for people. */
export interface Source {
  runs(): Promise<Runs>;
  run(id: string, from: number): Promise<Run>;
  column(id: string, name: string, from: number): Promise<Rows>;
  cell(id: string, layer: number, report: number): Promise<Cell>;
}
