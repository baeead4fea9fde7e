/** Differences between two reports, layer by layer. */

import type { Column, Layer } from "../data/contract";

export interface Difference {
  /** Index of the layer in the run that is shown. */
  readonly layer: number;
  readonly here: number;
  readonly there: number;
  readonly difference: number;
}

/** Layers of the same name that have a value in both, the largest difference first. */
export function differences(
  layers: readonly Layer[],
  valueHere: (layer: number) => number,
  others: readonly Layer[],
  valueThere: (layer: number) => number,
): Difference[] {
  const index = new Map(others.map((layer, i) => [layer.name, i]));
  const found: Difference[] = [];
  layers.forEach((layer, i) => {
    const other = index.get(layer.name);
    if (other === undefined) return;
    const [here, there] = [valueHere(i), valueThere(other)];
    if (Number.isNaN(here) || Number.isNaN(there)) return;
    found.push({ layer: i, here, there, difference: here - there });
  });
  return found.sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference) || a.layer - b.layer);
}

/** Whether the size of a difference of this column says anything. */
export const isComparable = (column: Pick<Column, "kind">): boolean => column.kind !== "words";
