/** The layers of a model beside those of another one, with what changed. */

import type { Layer } from "../data/contract";

export interface Change {
  readonly name: string;
  readonly shown: string;
  /** Index of the layer in the model that is shown, and in the other one; -1 if it has no such layer. */
  readonly here: number;
  readonly there: number;
  readonly after: number;
  readonly before: number;
  /** NaN without a value in both. */
  readonly difference: number;
  /** The shape, or both if they differ. */
  readonly shape: string;
  readonly words: string;
}

/** What is known of one of the two models. */
export interface Side {
  readonly name: string;
  readonly layers: readonly Layer[];
  readonly read: (layer: number) => number;
}

/** All layers with a matrix in one of the models at least, in the order of the model that is shown. */
export function changesOf(here: Side, there: Side, said: ReadonlyMap<number, string>): Change[] {
  const places = new Map(there.layers.map((layer, i) => [layer.name, i]));
  const known = new Set(here.layers.map(({ name }) => name));
  const pairs = [
    ...here.layers.map(({ name }, i): [number, number] => [i, places.get(name) ?? -1]),
    ...there.layers.flatMap(({ name }, i): [number, number][] => (known.has(name) ? [] : [[-1, i]])),
  ];
  return pairs.flatMap(([i, j]): Change[] => {
    const [now, old] = [here.layers[i], there.layers[j]];
    const any = now ?? old;
    if (!any || ![now, old].some(hasMatrix)) return [];
    const [after, before] = [now ? here.read(i) : Number.NaN, old ? there.read(j) : Number.NaN];
    const shapes = [old, now].flatMap((layer) => (layer ? [layer.shape] : []));
    return [
      {
        name: any.name,
        shown: any.shown,
        here: i,
        there: j,
        after,
        before,
        difference: after - before,
        shape: [...new Set(shapes)].join(" → "),
        words: said.get(i) || reason(now, here.name) || reason(old, there.name),
      },
    ];
  });
}

const hasMatrix = (layer: Layer | undefined): boolean =>
  layer !== undefined && (layer.note === "" || layer.shape !== "");

/** Why a model has no values of a layer. */
function reason(layer: Layer | undefined, model: string): string {
  if (!layer) return `not in ${model}`;
  return layer.note && `not analysed in ${model}: ${layer.note}`;
}

export type ChangeKey = "shown" | "shape" | "before" | "after" | "difference" | "words";

/** Changes in order; the difference by its size. What has no value comes last. */
export function sortedChanges(changes: readonly Change[], key: ChangeKey, up: boolean): Change[] {
  const sign = up ? 1 : -1;
  const value = (change: Change): number | string => {
    const found = change[key];
    return key === "difference" && typeof found === "number" ? Math.abs(found) : found;
  };
  return [...changes].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    const missing = Number(isMissing(x)) - Number(isMissing(y));
    if (missing || (isMissing(x) && isMissing(y))) return missing;
    return sign * compared(x, y);
  });
}

const isMissing = (value: number | string): boolean => value === "" || Number.isNaN(value);

const compared = (x: number | string, y: number | string): number =>
  typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
