/** Marks in the map: where a tail formed, and where a trap came. */

import type { Grid } from "../data/merge";

export interface Mark {
  readonly layer: number;
  readonly report: number;
  readonly kind: "tail" | "trap";
}

/** A tail that was there a moment ago and comes back is no news. */
const ABSENT = 3;

/** Where `reliable` became 1 after at least three reports without, or for the first time. */
export function tailMarks(reliable: Grid | undefined, layer: number): Mark[] {
  if (!reliable) return [];
  const marks: Mark[] = [];
  let absent = -1;
  for (let report = 0; report < reliable.rows; report++) {
    const value = reliable.values[report * reliable.layers + layer] as number;
    if (Number.isNaN(value)) continue;
    if (value === 1) {
      const first = marks.length === 0 && absent > 0;
      if (first || absent >= ABSENT) marks.push({ layer, report, kind: "tail" });
      absent = 0;
    } else absent = absent < 0 ? 1 : absent + 1;
  }
  return marks;
}

/** Where `num_traps` rose above everything before it. */
export function trapMarks(traps: Grid | undefined, layer: number): Mark[] {
  if (!traps) return [];
  const marks: Mark[] = [];
  let most = Number.NaN;
  for (let report = 0; report < traps.rows; report++) {
    const value = traps.values[report * traps.layers + layer] as number;
    if (value > most) marks.push({ layer, report, kind: "trap" });
    if (Number.isNaN(most) || value > most) most = Number.isNaN(value) ? most : value;
  }
  return marks;
}

/** All marks of some layers. */
export function marksOf(reliable: Grid | undefined, traps: Grid | undefined, layers: readonly number[]): Mark[] {
  return layers.flatMap((layer) => [...tailMarks(reliable, layer), ...trapMarks(traps, layer)]);
}
