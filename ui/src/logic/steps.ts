/** Reports along the axis of steps. */

import type { Numbers } from "../data/contract";

/** Left and right end of the cell of each report. Where reports are missing, a gap stays between two cells. */
export interface Spans {
  readonly left: Float64Array;
  readonly right: Float64Array;
}

const NEIGHBOURS = 3;
/** A distance this many times the usual one nearby is a gap. */
const GAP = 2.5;

function usual(gaps: number[], i: number): number {
  const near = gaps.slice(Math.max(0, i - NEIGHBOURS), i + NEIGHBOURS + 1).sort((a, b) => a - b);
  return near[near.length >> 1] ?? 1;
}

export function spans(steps: readonly number[]): Spans {
  const left = Float64Array.from(steps);
  const right = Float64Array.from(steps);
  const gaps = steps.slice(1).map((step, i) => step - (steps[i] as number));
  gaps.forEach((gap, i) => {
    const nearby = usual(gaps, i);
    const half = (gap > GAP * nearby ? nearby : gap) / 2;
    right[i] = (steps[i] as number) + half;
    left[i + 1] = (steps[i + 1] as number) - half;
  });
  const last = steps.length - 1;
  if (last === 0) {
    left[0] = (steps[0] as number) - 0.5;
    right[0] = (steps[0] as number) + 0.5;
  } else if (last > 0) {
    left[0] = 2 * (steps[0] as number) - (right[0] as number);
    right[last] = 2 * (steps[last] as number) - (left[last] as number);
  }
  return { left, right };
}

/** The range of an axis that has up to 2 % of room at its end, so that it stays the same for some more reports. */
export function steadyRange(from: number, to: number): [number, number] {
  if (!(to > from)) return [from, to];
  const room = 2 ** (Math.floor(Math.log2(to - from)) - 6);
  return [from, from + Math.ceil((to - from) / room) * room];
}

/** Index of the last value that is at most `x` in ascending values; -1 if there is none. */
export function lastAtMost(values: ArrayLike<number>, x: number): number {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((values[middle] as number) <= x) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Index of the value nearest to `x` in ascending values; -1 without values. */
export function nearest(values: ArrayLike<number>, x: number): number {
  const i = lastAtMost(values, x);
  if (i < 0) return values.length ? 0 : -1;
  if (i + 1 >= values.length) return i;
  return x - (values[i] as number) <= (values[i + 1] as number) - x ? i : i + 1;
}

/** The report whose cell holds `x`; -1 in a gap and outside. */
export function reportAt({ left, right }: Spans, x: number): number {
  const i = lastAtMost(left, x);
  return i >= 0 && x <= (right[i] as number) ? i : -1;
}

/** A curve whose steps grow. After a restart steps come again: the last value of a step holds. */
export function ascending<T extends { readonly steps: number[]; readonly values: Numbers }>(curve: T): T {
  const { steps, values } = curve;
  if (steps.every((step, i) => i === 0 || step > (steps[i - 1] as number))) return curve;
  const last = new Map(steps.map((step, i) => [step, values[i] ?? null]));
  const sorted = [...last.keys()].sort((a, b) => a - b);
  return { ...curve, steps: sorted, values: sorted.map((step) => last.get(step) ?? null) };
}
