/** What the picture of a spectrum shows, as shapes in (log10 λ, count). Pure functions. */

import type { Cell, Histogram, Value } from "../data/contract";

export type View = "counts" | "tail";
export type Point = readonly [number, number];

export interface Bar {
  readonly low: number;
  readonly high: number;
  readonly count: number;
  /** Above the edge of the random bulk. */
  readonly above: boolean;
}

export interface Marker {
  readonly at: number;
  readonly kind: "edge" | "xmin" | "shuffled" | "max";
  readonly label: string;
}

export interface Shapes {
  readonly x: readonly [number, number];
  readonly top: number;
  readonly bars: readonly Bar[];
  readonly spectrum: readonly Point[];
  readonly control: readonly Point[];
  readonly baseline: readonly Point[];
  readonly fit: readonly Point[];
  /** Points of the fit with the lower and the upper end of the interval of alpha. */
  readonly band: readonly [readonly Point[], readonly Point[]] | null;
  readonly markers: readonly Marker[];
}

export const numeric = (value: Value | undefined): number =>
  typeof value === "number" && Number.isFinite(value) ? value : Number.NaN;

const width = (h: Histogram): number => (h.high - h.low) / Math.max(1, h.counts.length);

/** A histogram as a line of steps: two points for each bin, down to 0 at both ends. */
export function stairs(counts: readonly number[], low: number, step: number): Point[] {
  if (!counts.length) return [];
  const points: Point[] = [[low, 0]];
  for (const [i, count] of counts.entries()) points.push([low + i * step, count], [low + (i + 1) * step, count]);
  points.push([low + counts.length * step, 0]);
  return points;
}

/** Number of eigenvalues that are at least λ, at the lower end of each bin that is not empty. */
export function cumulative(counts: readonly number[], low: number, step: number): Point[] {
  let sum = 0;
  const points: Point[] = [];
  for (let i = counts.length - 1; i >= 0; i--) {
    sum += counts[i] as number;
    if (counts[i]) points.push([low + i * step, sum]);
  }
  return points.reverse();
}

/** Number of the k eigenvalues of a tail from `xmin` on that a power law puts at or above 10^u. */
export const expectedAbove = (k: number, alpha: number, xmin: number, u: number): number =>
  k * 10 ** (-(alpha - 1) * Math.max(0, u - xmin));

const POINTS = 40;

/** The fitted law from xmin to the largest eigenvalue: expected counts per bin, or above λ. */
export function fitted(k: number, alpha: number, xmin: number, end: number, step: number, view: View): Point[] {
  if (!(k > 0) || !(alpha > 1) || !Number.isFinite(xmin) || !(end > xmin)) return [];
  return Array.from({ length: POINTS + 1 }, (_, i): Point => {
    const u = xmin + ((end - xmin) * i) / POINTS;
    const above = expectedAbove(k, alpha, xmin, u);
    return [u, view === "tail" ? above : above * (1 - 10 ** (-(alpha - 1) * step))];
  });
}

const log10 = (value: number): number => (value > 0 ? Math.log10(value) : Number.NaN);

function outline(h: Histogram | null | undefined, which: "counts" | "rand_counts", view: View): Point[] {
  const counts = h?.[which];
  if (!h || !counts) return [];
  return view === "tail" ? cumulative(counts, h.low, width(h)) : stairs(counts, h.low, width(h));
}

function markersOf(values: Cell["values"]): Marker[] {
  const all: Marker[] = [
    { at: log10(numeric(values.bulk_max)), kind: "edge", label: "edge of the random bulk" },
    { at: log10(numeric(values.xmin)), kind: "xmin", label: "xmin, start of the tail" },
    { at: log10(numeric(values.max_rand_eval)), kind: "shuffled", label: "largest shuffled λ" },
    { at: log10(numeric(values.lambda_max)), kind: "max", label: "λ max" },
  ];
  return all.filter(({ at }) => Number.isFinite(at));
}

export function shapesOf(cell: Cell, baseline: Cell | null, view: View): Shapes | null {
  const h = cell.histogram;
  if (!h?.counts.length) return null;
  const { values } = cell;
  const step = width(h);
  const edge = log10(numeric(values.bulk_max));
  const bars = h.counts.map((count, i): Bar => {
    const low = h.low + i * step;
    return { low, high: low + step, count, above: low + step / 2 > edge };
  });
  const k = numeric(values.num_pl_spikes);
  const [xmin, end] = [log10(numeric(values.xmin)), log10(numeric(values.lambda_max))];
  const law = (alpha: number): Point[] => fitted(k, alpha, xmin, end, step, view);
  const [lower, upper] = [law(numeric(values.alpha_low)), law(numeric(values.alpha_high))];
  const other = outline(baseline?.histogram, "counts", view);
  const markers = markersOf(values);
  const control = outline(h, "rand_counts", view);
  const spectrum = outline(h, "counts", view);
  const fit = law(numeric(values.alpha));
  const ends = [h.low, h.high, ...markers.map(({ at }) => at), ...other.map(([x]) => x)];
  const [from, to] = [Math.min(...ends), Math.max(...ends)];
  const margin = Math.max(0.02, (to - from) * 0.03);
  return {
    x: [from - margin, to + margin],
    top: Math.max(1, ...spectrum.map(([, y]) => y), ...control.map(([, y]) => y), ...other.map(([, y]) => y)),
    bars: view === "counts" ? bars : [],
    spectrum,
    control,
    baseline: other,
    fit,
    band: lower.length && upper.length ? [lower, upper] : null,
    markers,
  };
}

/** What lies under the cursor, in words. */
export function readout(cell: Cell, u: number): string {
  const h = cell.histogram;
  if (!h) return "";
  const i = Math.floor((u - h.low) / width(h));
  const n = h.counts[i];
  if (n === undefined) return "";
  const above = h.counts.slice(i).reduce((a, b) => a + b, 0);
  const control = h.rand_counts ? `, shuffled ${h.rand_counts[i] ?? 0}` : "";
  return `λ near ${(10 ** (h.low + (i + 0.5) * width(h))).toPrecision(3)}: ${n} here${control}, ${above} from here on`;
}
