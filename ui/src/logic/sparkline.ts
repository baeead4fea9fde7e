/** A small line as the points of an SVG polyline, in a box from 0 to 1. */

import type { Numbers } from "../data/contract";

/** Values from 0 to 1 over the steps. Of more points than `most`, evenly spread ones and the last are taken. */
export function linePoints(steps: readonly number[], values: Numbers, most: number): string {
  const [from, to] = [steps[0] ?? 0, steps[steps.length - 1] ?? 1];
  const known = values.flatMap((value, i) => (value === null ? [] : [[steps[i] as number, value] as const]));
  const every = Math.max(1, Math.ceil(known.length / most));
  return known
    .filter((_, i) => i % every === (known.length - 1) % every)
    .map(([step, value]) => `${place((step - from) / (to - from || 1))},${place(1 - value)}`)
    .join(" ");
}

const place = (share: number): string => Math.min(1, Math.max(0, share)).toFixed(4);
