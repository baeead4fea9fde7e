/** The pixels of the map. The colour of a cell is looked up once; each pixel is a copy of it. */

import type { Grid } from "../data/merge";
import { type ColorScale, placeOf } from "./colors";

/** What the colours of the cells depend on. */
export interface Cells {
  /** The rows of the map; only whether they are the same ones counts, and how many they are. */
  readonly rows: readonly unknown[];
  /** The layer that a row shows at a report. */
  readonly layerOf: (row: number, report: number) => number;
  readonly grid: Grid | undefined;
  /** Pale where this is not 1; undefined: nothing is pale. */
  readonly reliable: Grid | undefined;
  readonly scale: ColorScale;
}

/** Stands for a cell without a value. No colour is 0, as all are opaque. */
const MISSING = 0;

/** The colours of all cells, report by report. A new report adds its cells; the others are looked up again only if need be. */
export class CellColors {
  rows = 0;
  reports = 0;
  colors = new Uint32Array(0);
  /** Reports whose colours are settled: `reliable` may come later than the column. */
  private settled = 0;
  private depends: readonly unknown[] = [];

  /** Looks up what is new; returns the first report whose colours may have changed. */
  update({ rows, layerOf, grid, reliable, scale }: Cells): number {
    const depends = [rows, scale, grid?.base, reliable?.base];
    if (depends.some((each, i) => each !== this.depends[i])) this.settled = 0;
    this.depends = depends;
    this.rows = rows.length;
    this.reports = grid?.rows ?? 0;
    this.settled = Math.min(this.settled, this.reports);
    this.reserve(this.rows * this.reports);
    if (!grid) return 0;
    const first = this.settled;
    let i = first * this.rows;
    for (let report = first; report < this.reports; report++) {
      for (let row = 0; row < this.rows; row++) {
        const cell = report * grid.layers + layerOf(row, report);
        const place = placeOf(scale, grid.values[cell] as number);
        const pale = reliable !== undefined && report < reliable.rows && reliable.values[cell] !== 1;
        this.colors[i++] = place < 0 ? MISSING : ((pale ? scale.pale : scale.colors)[place] as number);
      }
    }
    this.settled = Math.min(this.reports, reliable?.rows ?? this.reports);
    return first;
  }

  private reserve(needed: number): void {
    if (this.colors.length >= needed) return;
    const larger = new Uint32Array(this.colors.length ? Math.ceil(needed * 1.5) : needed);
    larger.set(this.colors);
    this.colors = larger;
  }
}

export interface Painting {
  readonly width: number;
  readonly height: number;
  /** The first column of pixels that is painted; those left of it stay as they are. */
  readonly from: number;
  /** The report at each column of pixels; -1 for none. */
  readonly reports: Int32Array;
  /** Row of the map at each line of pixels; -1 for none. */
  readonly lines: Int32Array;
  readonly cells: CellColors;
  /** Colours of a cell without a value: the surface and its hatching. */
  readonly none: readonly [number, number];
  readonly background: number;
}

/** Distance of the lines of the hatching, in pixels; a power of two. */
const HATCH = 4;

export function paint(painting: Painting, target: Uint32Array): void {
  const { width, height, from, reports, lines, cells, none, background } = painting;
  const { colors, rows } = cells;
  const starts = reports.map((report) => (report < 0 || report >= cells.reports ? -1 : report * rows));
  const missing = new Int32Array(width);
  let missed = 0;
  let painted = -1;
  for (let y = 0; y < height; y++) {
    const row = lines[y] as number;
    const start = y * width;
    if (row < 0) {
      target.fill(background, start + from, start + width);
      continue;
    }
    if (row === painted) target.copyWithin(start + from, start - width + from, start);
    else {
      missed = 0;
      for (let x = from; x < width; x++) {
        const cell = starts[x] as number;
        const color = cell < 0 ? background : (colors[cell + row] as number);
        if (color === MISSING) missing[missed++] = x;
        target[start + x] = color;
      }
      painted = row;
    }
    for (let i = 0; i < missed; i++) {
      const x = missing[i] as number;
      target[start + x] = none[((x + y) & (HATCH - 1)) === 0 ? 1 : 0];
    }
  }
}
