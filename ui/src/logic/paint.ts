/** The pixels of the map. Each pixel is one look-up; rows are painted once and copied down. */

import type { Grid } from "../data/merge";
import { type ColorScale, placeOf } from "./colors";

export interface Painting {
  readonly width: number;
  readonly height: number;
  /** The report at each column of pixels; -1 for none. */
  readonly reports: Int32Array;
  /** Row of the map at each line of pixels; -1 for none. */
  readonly lines: Int32Array;
  /** The layer that a row shows at a report. */
  readonly layerOf: (row: number, report: number) => number;
  readonly grid: Grid | undefined;
  /** Pale where this is not 1; undefined: nothing is pale. */
  readonly reliable: Grid | undefined;
  readonly scale: ColorScale;
  /** Colours of a cell without a value: the surface and its hatching. */
  readonly none: readonly [number, number];
  readonly background: number;
}

/** Distance of the lines of the hatching, in pixels; a power of two. */
const HATCH = 4;

export function paint(p: Painting, target: Uint32Array): void {
  const { width, height, reports, lines, grid, reliable, scale } = p;
  const missing = new Uint8Array(width);
  let painted = -1;
  let paintedAt = -1;
  let anyMissing = false;
  for (let y = 0; y < height; y++) {
    const row = lines[y] as number;
    const start = y * width;
    if (row < 0) {
      target.fill(p.background, start, start + width);
      continue;
    }
    if (row === painted) target.copyWithin(start, paintedAt, paintedAt + width);
    else {
      anyMissing = false;
      let last = -2;
      let color = p.background;
      let none = 0;
      for (let x = 0; x < width; x++) {
        const report = reports[x] as number;
        if (report !== last) {
          last = report;
          none = 0;
          if (report < 0 || !grid || report >= grid.rows) color = p.background;
          else {
            const cell = report * grid.layers + p.layerOf(row, report);
            const i = placeOf(scale, grid.values[cell] as number);
            if (i < 0) {
              none = 1;
              anyMissing = true;
            } else if (reliable && report < reliable.rows && reliable.values[cell] !== 1)
              color = scale.pale[i] as number;
            else color = scale.colors[i] as number;
          }
        }
        missing[x] = none;
        target[start + x] = color;
      }
      painted = row;
    }
    if (anyMissing) {
      for (let x = 0; x < width; x++) {
        if (missing[x]) target[start + x] = p.none[((x + y) & (HATCH - 1)) === 0 ? 1 : 0];
      }
    }
    paintedAt = start;
  }
}
