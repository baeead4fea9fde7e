/** Where the rows of the map are, in CSS pixels. */

import type { Group, Row } from "./groups";

export interface RowLayout {
  readonly tops: readonly number[];
  readonly heights: readonly number[];
  /** Top and height of each group. */
  readonly groups: readonly { readonly top: number; readonly height: number }[];
  readonly total: number;
}

/** A group is at least this high, so that its name fits beside it. */
export const NAME_HEIGHT = 13;
const BETWEEN = 2;

export function layoutRows(groups: readonly Group[], rows: readonly Row[], base: number): RowLayout {
  const tops: number[] = [];
  const heights: number[] = [];
  const places: { top: number; height: number }[] = [];
  let y = 0;
  let next = 0;
  for (const { name } of groups) {
    const start = next;
    while (next < rows.length && rows[next]?.group === name) next++;
    const n = next - start;
    const height = Math.max(base, Math.ceil(NAME_HEIGHT / Math.max(1, n)));
    places.push({ top: y, height: n * height });
    for (let i = 0; i < n; i++) {
      tops.push(y);
      heights.push(height);
      y += height;
    }
    y += BETWEEN;
  }
  return { tops, heights, groups: places, total: Math.max(0, y - BETWEEN) };
}

/** The largest height of rows, up to `most`, at which all rows fit; the smallest one if none does. */
export function fittingHeight(
  groups: readonly Group[],
  rows: readonly Row[],
  room: number,
  least = 2,
  most = 18,
): number {
  for (let base = most; base > least; base--) if (layoutRows(groups, rows, base).total <= room) return base;
  return least;
}
