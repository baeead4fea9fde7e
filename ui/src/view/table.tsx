/** The layers at one step as a table. */

import { useMemo, useState } from "preact/hooks";
import type { Column, Layer } from "../data/contract";
import { at, type Grid } from "../data/merge";
import { columnValue, withInterval } from "../logic/format";

/** Columns of values that the table shows, if the run has them. */
export const TABLE_COLUMNS = [
  "alpha",
  "rand_alpha",
  "D",
  "num_traps",
  "stable_rank",
  "update_norm",
  "learned_rank",
  "delta_alpha",
  "distance",
  "lora_rank",
  "lora_used",
  "lr_ratio",
  "warning",
];
/** Columns that are needed for the interval of alpha. */
export const INTERVAL = ["alpha_low", "alpha_high"];

const SHORT: Record<string, string> = {
  rand_alpha: "shuffled",
  num_traps: "traps",
  warning: "judgement",
  stable_rank: "stable rank",
  update_norm: "update",
  learned_rank: "learned rank",
  delta_alpha: "Δalpha",
  lora_rank: "LoRA rank",
  lora_used: "used",
  lr_ratio: "rate ratio",
};

interface TableProps {
  layers: readonly Layer[];
  columns: readonly Column[];
  /** The same map for all of a run; `stamp` says when its content is new. */
  grids: ReadonlyMap<string, Grid>;
  stamp: string;
  report: number;
  caption: string;
  chosen: number;
  select: (layer: number) => void;
}

type SortKey = "order" | "name" | "kind" | "shape" | string;

export function LayerTable(props: TableProps) {
  const { layers, columns, grids, stamp, report, chosen } = props;
  const [sort, setSort] = useState<{ key: SortKey; up: boolean }>({ key: "order", up: true });
  const shown = useMemo(
    () => TABLE_COLUMNS.flatMap((name) => columns.filter((column) => column.name === name)),
    [columns],
  );
  const read = (name: string, layer: number): number => at(grids.get(name), report, layer);
  // `stamp` says when the grids are new.
  const order = useMemo(() => {
    const { key, up } = sort;
    const indices = layers.map((_, i) => i);
    const texts: Record<string, (layer: Layer) => string> = {
      name: (l) => l.shown,
      kind: (l) => l.kind,
      shape: (l) => l.shape,
    };
    const text = texts[key];
    const sign = up ? 1 : -1;
    if (key === "order") {
      const analysed = indices.filter((i) => layers[i]?.note === "");
      return [...(up ? analysed : analysed.reverse()), ...indices.filter((i) => layers[i]?.note !== "")];
    }
    if (text)
      return indices.sort(
        (a, b) => sign * text(layers[a] as Layer).localeCompare(text(layers[b] as Layer), "en", { numeric: true }),
      );
    return indices.sort((a, b) => {
      const [x, y] = [read(key, a), read(key, b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y)) || a - b;
      return sign * (x - y) || a - b;
    });
  }, [layers, sort, stamp, report]);
  const heading = (key: SortKey, label: string, title: string, numeric = false) => {
    const state = sort.key !== key ? "none" : sort.up ? "ascending" : "descending";
    return (
      <th scope="col" key={key} aria-sort={state} class={numeric ? "number" : ""}>
        <button
          type="button"
          title={title}
          onClick={() => setSort({ key, up: sort.key === key ? !sort.up : !numeric })}
        >
          {label}
          <span aria-hidden="true">{state === "none" ? "" : sort.up ? " ▲" : " ▼"}</span>
        </button>
      </th>
    );
  };
  return (
    <div class="scroll table" tabIndex={0} role="region" aria-label="Table of layers">
      <table>
        <caption>{props.caption}</caption>
        <thead>
          <tr>
            {heading("order", "#", "Order in the model")}
            {heading("name", "name", "Name of the layer")}
            {heading("kind", "kind", "Class of the layer")}
            {heading("shape", "shape", "Shape of its weights")}
            {shown.map((column) =>
              heading(
                column.name,
                SHORT[column.name] ?? column.name,
                `${column.label}. ${column.text}`,
                column.kind !== "words",
              ),
            )}
          </tr>
        </thead>
        <tbody>
          {order.map((index) => {
            const layer = layers[index] as Layer;
            return (
              <tr key={index} class={index === chosen ? "chosen" : ""}>
                <td class="number quiet">{index + 1}</td>
                <th scope="row" title={layer.shown}>
                  {layer.note ? (
                    <bdi class="quiet">{layer.shown}</bdi>
                  ) : (
                    <button
                      type="button"
                      class="link"
                      onClick={() => props.select(index)}
                      aria-current={index === chosen}
                    >
                      <bdi>{layer.shown}</bdi>
                    </button>
                  )}
                </th>
                <td title={layer.kind}>
                  <bdi>{layer.kind}</bdi>
                </td>
                <td>{layer.shape}</td>
                {layer.note ? (
                  <td colSpan={Math.max(1, shown.length)} class="quiet">
                    not analysed: {layer.note}
                  </td>
                ) : (
                  shown.map((column) => (
                    <td key={column.name} class={column.kind === "words" ? "" : "number"}>
                      {column.name === "alpha"
                        ? withInterval(read("alpha", index), read("alpha_low", index), read("alpha_high", index))
                        : columnValue(column, read(column.name, index))}
                    </td>
                  ))
                )}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
