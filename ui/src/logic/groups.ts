/** Rows of the map: layers in groups that can be closed, found by name. */

import type { Layer } from "../data/contract";

export type GroupBy = "block" | "kind";

export interface Group {
  readonly name: string;
  /** Indices into the layers of the run. */
  readonly layers: readonly number[];
}

/** One row of the map. A closed group has several layers and shows the worst one; an open one a row for each. */
export interface Row {
  readonly group: string;
  readonly layers: readonly number[];
  readonly closed: boolean;
}

export const OTHERS = "other layers";

const collator = new Intl.Collator("en", { numeric: true });

/** Layers with a matrix whose name holds all words of the search, in groups, in the order of the model. */
export function grouped(layers: readonly Layer[], by: GroupBy, search = ""): Group[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const groups = new Map<string, number[]>();
  layers.forEach((layer, i) => {
    if (layer.note !== "") return;
    const text = `${layer.name} ${layer.shown} ${layer.kind} ${layer.role}`.toLowerCase();
    if (!words.every((word) => text.includes(word))) return;
    const name = (by === "block" ? layer.block : kindOf(layer)) || OTHERS;
    const group = groups.get(name);
    if (group) group.push(i);
    else groups.set(name, [i]);
  });
  const all = [...groups].map(([name, indices]) => ({ name, layers: indices }));
  return by === "kind" ? all.sort((a, b) => collator.compare(a.name, b.name)) : all;
}

const PART = /(^|\.)\d+(?=\.|$)/g;

/** What a layer is, the same for all blocks: the name without the numbers of blocks, such as "layers.*.attn.q". */
function kindOf(layer: Layer): string {
  return layer.name.length > 200 ? layer.kind : layer.name.replace(PART, "$1*");
}

export function rowsOf(groups: readonly Group[], closed: ReadonlySet<string>): Row[] {
  return groups.flatMap(({ name, layers }): Row[] =>
    closed.has(name) && layers.length > 1
      ? [{ group: name, layers, closed: true }]
      : layers.map((layer) => ({ group: name, layers: [layer], closed: false })),
  );
}

/** The row that shows a layer; -1 if none does. */
export const rowOf = (rows: readonly Row[], layer: number): number =>
  rows.findIndex((row) => row.layers.includes(layer));

/** A layer's name without the name of its block, if it starts with that. */
export function shortName(layer: Layer): string {
  const { block, shown } = layer;
  return block && shown.startsWith(`${block}.`) ? shown.slice(block.length + 1) : shown;
}
