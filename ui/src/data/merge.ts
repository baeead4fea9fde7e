/** A run as the page holds it: what the server has sent so far, put together. Pure functions. */

import type { Numbers, Rule, Run } from "./contract";

/** A column's values, row by row; a row is a report. `rows` may be smaller than the number of reports for a moment. */
export interface Grid {
  readonly rows: number;
  readonly layers: number;
  readonly values: Float32Array;
  /** The same object as long as rows are added only: what is known of earlier rows stays true. */
  readonly base: object;
}

const padded = (old: Numbers, length: number): Numbers =>
  old.length >= length ? old.slice(0, length) : [...old, ...new Array<null>(length - old.length).fill(null)];

/** Both parts of a series by report, which may be missing in either. */
const joined = (old: Numbers | undefined, added: Numbers | undefined, from: number, total: number): Numbers =>
  padded([...padded(old ?? [], from), ...(added ?? [])], total);

function mergedSummary(old: Run, added: Run, total: number): Record<string, Numbers> {
  const names = new Set([...Object.keys(old.summary), ...Object.keys(added.summary)]);
  return Object.fromEntries([...names].map((n) => [n, joined(old.summary[n], added.summary[n], added.from, total)]));
}

function mergedRules(old: Run, added: Run, total: number): Rule[] {
  if (added.from === total && added.rules.length === 0) return old.rules;
  const before = new Map(old.rules.map((rule) => [rule.name, rule]));
  return added.rules.map((r) => ({ ...r, score: joined(before.get(r.name)?.score, r.score, added.from, total) }));
}

/** Whether an answer goes on where the page is, so that what the page has stays true. */
export const continues = (old: Run | null, added: Run): boolean =>
  old !== null && old.id === added.id && old.version === added.version && added.from <= old.steps.length;

/** What was there, if the new value is the same: what depends on it need not be made again. */
const kept = <T>(old: T, added: T): T => (JSON.stringify(old) === JSON.stringify(added) ? old : added);

/** The whole run after one more answer of the server. */
export function merged(old: Run | null, added: Run): Run {
  if (old === null || added.from === 0 || !continues(old, added)) return added;
  const from = added.from;
  const total = from + added.steps.length;
  return {
    ...added,
    from: 0,
    layers: kept(old.layers, added.layers),
    columns: kept(old.columns, added.columns),
    findings: kept(old.findings, added.findings),
    steps: [...old.steps.slice(0, from), ...added.steps],
    times: [...old.times.slice(0, from), ...added.times],
    lag: [...old.lag.slice(0, from), ...added.lag],
    summary: mergedSummary(old, added, total),
    rules: mergedRules(old, added, total),
  };
}

/** A grid with more rows from row `from` on. The memory grows by half, so that one more row seldom copies the rest. */
export function extended(old: Grid | null, from: number, added: Float32Array, layers: number): Grid {
  const rows = layers ? from + Math.floor(added.length / layers) : 0;
  const start = from * layers;
  const needed = rows * layers;
  let values = old?.values ?? new Float32Array(0);
  if (values.length < needed) {
    const larger = new Float32Array(old ? Math.ceil(needed * 1.5) : needed);
    larger.set(values.subarray(0, start));
    values = larger;
  }
  values.set(added.subarray(0, needed - start), start);
  return { rows, layers, values, base: old && from === old.rows ? old.base : {} };
}

/** The value of a layer at a report; NaN if there is none. */
export function at(grid: Grid | null | undefined, report: number, layer: number): number {
  if (!grid || report < 0 || report >= grid.rows || layer < 0 || layer >= grid.layers) return Number.NaN;
  return grid.values[report * grid.layers + layer] as number;
}
