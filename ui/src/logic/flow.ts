/** alpha of the fitted layers against their depth, from 0 for the first one to 1 for the last one. */

import type { Layer, Numbers } from "../data/contract";

export interface Flow {
  /** Indices of the fitted layers. */
  readonly layers: readonly number[];
  readonly depth: readonly number[];
  readonly alpha: readonly number[];
}

export function flowOf(layers: readonly Layer[], alpha: ArrayLike<number>): Flow {
  const fitted = layers.flatMap((layer, i) => (layer.role !== "adapter" && Number.isFinite(alpha[i]) ? [i] : []));
  return {
    layers: fitted,
    depth: fitted.map((_, i) => (fitted.length > 1 ? i / (fitted.length - 1) : 0)),
    alpha: fitted.map((i) => alpha[i] as number),
  };
}

/** The depths of all models, ascending, and alpha of each at these, null where it has no layer. */
export function onOneAxis(flows: readonly Flow[]): [number[], ...Numbers[]] {
  const depths = [...new Set(flows.flatMap(({ depth }) => depth))].sort((a, b) => a - b);
  const columns = flows.map(({ depth, alpha }) => {
    const known = new Map(depth.map((x, i) => [x, alpha[i] as number]));
    return depths.map((x) => known.get(x) ?? null);
  });
  return [depths, ...columns];
}
