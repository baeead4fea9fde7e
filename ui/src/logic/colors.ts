/** Colours of cells: scales that people with colour-blindness can read, as tables that painting looks up. */

import type { Column } from "../data/contract";
import type { Grid } from "../data/merge";

export type Rgb = readonly [number, number, number];

/** Colours of one column. `colors` has equal steps from `low` to `high`, in the transformed value. */
export interface ColorScale {
  readonly low: number;
  readonly high: number;
  readonly log: boolean;
  /** 0xAABBGGRR, the order of bytes in an ImageData. */
  readonly colors: Uint32Array;
  readonly pale: Uint32Array;
  /** Values at which the legend has a label. */
  readonly labels: readonly number[];
}

const SIZE = 512;

type Stop = readonly [value: number, color: string];

/** Below 2 violet, 2 to 6 from dark green to pale green, above 6 orange to brown. The bands also differ in lightness. */
export const ALPHA_STOPS: readonly Stop[] = [
  [1, "#2d0a55"],
  [1.999, "#7a3fc0"],
  [2, "#00695f"],
  [3, "#2b9c80"],
  [4, "#79c39a"],
  [5.999, "#d8eebf"],
  [6, "#f4b04c"],
  [8, "#cf6413"],
  [12, "#7a2c05"],
];

const VIRIDIS: readonly Stop[] = [
  [0, "#440154"],
  [0.125, "#482878"],
  [0.25, "#3e4a89"],
  [0.375, "#31688e"],
  [0.5, "#26828e"],
  [0.625, "#1f9e89"],
  [0.75, "#35b779"],
  [0.875, "#90d743"],
  [1, "#fde725"],
];

const DIVERGING: readonly Stop[] = [
  [0, "#0b3c7d"],
  [0.25, "#4b8cc8"],
  [0.5, "#f1f1ee"],
  [0.75, "#e08f3c"],
  [1, "#7f3b08"],
];

/** Okabe and Ito's colours, for words. */
export const WORD_COLORS = ["#999999", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];

const FLAG_COLORS = ["#c9ced6", "#0072b2"];

export function parseColor(text: string): Rgb {
  const value = Number.parseInt(text.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export const pack = ([r, g, b]: Rgb): number => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

export const css = (packed: number): string => `rgb(${packed & 255}, ${(packed >> 8) & 255}, ${(packed >> 16) & 255})`;

export const mixed = (a: Rgb, b: Rgb, share: number): Rgb => [
  Math.round(a[0] + (b[0] - a[0]) * share),
  Math.round(a[1] + (b[1] - a[1]) * share),
  Math.round(a[2] + (b[2] - a[2]) * share),
];

/** The colour at a value, between the stops around it. */
export function between(stops: readonly Stop[], value: number): Rgb {
  const after = stops.findIndex(([at]) => at > value);
  if (after === 0) return parseColor((stops[0] as Stop)[1]);
  if (after < 0) return parseColor((stops[stops.length - 1] as Stop)[1]);
  const [from, a] = stops[after - 1] as Stop;
  const [to, b] = stops[after] as Stop;
  return mixed(parseColor(a), parseColor(b), (value - from) / (to - from));
}

/** How much of the background a pale colour has: the layer has no reliable tail. */
const PALE = 0.72;

function table(
  stops: readonly Stop[],
  low: number,
  high: number,
  background: Rgb,
): Pick<ColorScale, "colors" | "pale"> {
  const colors = new Uint32Array(SIZE);
  const pale = new Uint32Array(SIZE);
  for (let i = 0; i < SIZE; i++) {
    const color = between(stops, low + ((high - low) * (i + 0.5)) / SIZE);
    colors[i] = pack(color);
    pale[i] = pack(mixed(color, background, PALE));
  }
  return { colors, pale };
}

const SAMPLES = 4000;

/** The number of reports that colours are made for: they change with each sixteenth of the run, not with each report. */
export const settledRows = (rows: number): number => rows - (rows % 2 ** Math.max(0, Math.floor(Math.log2(rows)) - 4));

/** The 1 % and the 99 % quantile of the values of the first reports, from evenly spread cells; null without values. */
export function usualRange(grid: Grid | undefined, rows = grid?.rows ?? 0): readonly [number, number] | null {
  if (!grid) return null;
  const total = rows * grid.layers;
  const stride = Math.max(1, Math.floor(total / SAMPLES));
  // A stride that shares a factor with the number of layers would see only some layers.
  const odd = stride > 1 && grid.layers % stride === 0 ? stride + 1 : stride;
  const some: number[] = [];
  for (let i = 0; i < total; i += odd) {
    const value = grid.values[i] as number;
    if (Number.isFinite(value)) some.push(value);
  }
  if (!some.length) return null;
  some.sort((a, b) => a - b);
  const last = some.length - 1;
  return [some[Math.floor(last * 0.01)] as number, some[Math.ceil(last * 0.99)] as number];
}

const spread = (low: number, high: number, n: number): number[] =>
  Array.from({ length: n }, (_, i) => low + ((high - low) * i) / (n - 1));

function words(colors: readonly string[], background: Rgb): ColorScale {
  const stops = colors.map((color, i): Stop => [i, color]);
  const flat = stops.flatMap(([at, color]): Stop[] => [
    [at - 0.5, color],
    [at + 0.499, color],
  ]);
  const [low, high] = [-0.5, colors.length - 0.5];
  return { low, high, log: false, ...table(flat, low, high, background), labels: colors.map((_, i) => i) };
}

/** The colours of a column whose usual values lie in `range`. */
export function colorScale(column: Column, range: readonly [number, number] | null, background: Rgb): ColorScale {
  if (column.kind === "words") {
    const n = Math.max(2, column.words.length);
    return words(
      Array.from({ length: n }, (_, i) => WORD_COLORS[i % WORD_COLORS.length] as string),
      background,
    );
  }
  if (column.kind === "flag") return words(FLAG_COLORS, background);
  if (column.scale === "alpha") {
    return { low: 1, high: 12, log: false, ...table(ALPHA_STOPS, 1, 12, background), labels: [1, 2, 4, 6, 8, 12] };
  }
  let [low, high] = range ?? [0, 1];
  if (column.scale === "diverging") {
    const centre = column.centre ?? 0;
    const log = centre > 0 && low > 0;
    const far = log
      ? Math.max(Math.abs(Math.log10(low / centre)), Math.abs(Math.log10(high / centre)), 0.01)
      : Math.max(Math.abs(low - centre), Math.abs(high - centre), 1e-6);
    const middle = log ? Math.log10(centre) : centre;
    const labels = spread(middle - far, middle + far, 3).map((v) => (log ? 10 ** v : v));
    return { low: middle - far, high: middle + far, log, ...table(DIVERGING, 0, 1, background), labels };
  }
  const log = column.scale === "log" && low > 0;
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  if (high - low < 1e-9 * Math.max(1, Math.abs(high))) [low, high] = [low - 0.5, high + 0.5];
  const labels = spread(low, high, 3).map((v) => (log ? 10 ** v : v));
  return { low, high, log, ...table(VIRIDIS, 0, 1, background), labels };
}

/** Place of a value in the table of a scale; -1 if it has no colour. Values outside get the colours of the ends. */
export function placeOf(scale: ColorScale, value: number): number {
  if (Number.isNaN(value)) return -1;
  const t = scale.log ? Math.log10(value) : value;
  if (Number.isNaN(t)) return -1;
  const i = Math.floor(((t - scale.low) / (scale.high - scale.low)) * SIZE);
  return i < 0 ? 0 : i >= SIZE ? SIZE - 1 : i;
}
