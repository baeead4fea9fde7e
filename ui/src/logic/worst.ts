/** Which value is worse, and in which order layers are looked at. */

import type { Column, Finding } from "../data/contract";

/** alpha of layers that are trained well lies between these, as the literature has it. */
export const GOOD = { low: 2, high: 6 } as const;

/** Larger than any alpha of a fit. */
const BELOW = 1e6;

/** How bad a value is, larger is worse; -Infinity without a value. */
export function badness(column: Pick<Column, "scale" | "centre">, value: number): number {
  if (Number.isNaN(value)) return Number.NEGATIVE_INFINITY;
  if (column.scale === "alpha") {
    return value < GOOD.low ? BELOW + GOOD.low - value : value;
  }
  if (column.scale === "diverging") {
    const centre = column.centre ?? 0;
    return centre > 0 && value > 0 ? Math.abs(Math.log(value / centre)) : Math.abs(value - centre);
  }
  return value;
}

/** In words, what comes first in the order of {@link badness}. */
export function worstInWords(column: Pick<Column, "scale" | "centre">): string {
  if (column.scale === "alpha") return "below 2 first, then the largest";
  if (column.scale === "diverging") return `farthest from ${column.centre ?? 0}`;
  return "largest";
}

/** The worst of some layers; the first one if none has a value. */
export function worstOf(
  column: Pick<Column, "scale" | "centre">,
  layers: readonly number[],
  read: (layer: number) => number,
): number {
  let best = layers[0] ?? -1;
  let most = Number.NEGATIVE_INFINITY;
  for (const layer of layers) {
    const bad = badness(column, read(layer));
    if (bad > most) {
      most = bad;
      best = layer;
    }
  }
  return best;
}

/** Layers in the order of trouble: those of findings that hold, as they come, then the others by the column. */
export function worstOrder(
  findings: readonly Finding[],
  column: Pick<Column, "scale" | "centre">,
  layers: readonly number[],
  read: (layer: number) => number,
  countsFor: (layer: number) => boolean = () => true,
): number[] {
  const left = new Set(layers);
  const order: number[] = [];
  for (const finding of findings) {
    if (finding.until !== null) continue;
    for (const layer of finding.layers) if (left.delete(layer)) order.push(layer);
  }
  const rest = [...left].map((layer) => ({ layer, sure: countsFor(layer), bad: badness(column, read(layer)) }));
  rest.sort(
    (a, b) => Number(b.sure) - Number(a.sure) || (a.bad === b.bad ? a.layer - b.layer : a.bad > b.bad ? -1 : 1),
  );
  return [...order, ...rest.map(({ layer }) => layer)];
}
